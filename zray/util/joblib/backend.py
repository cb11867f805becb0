"""A backend of joblib whose batches are tasks.

Large arrays are put into the object store once in a ``Parallel`` call, and the tasks read them in place: what joblib's
own backend does with memory-mapped files, on every machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from zray.api.calls import cluster_resources, put
from zray.core.runtime_context import get_runtime_context
from zray.handles.refs import ObjectRef
from zray.util.executor import Executor

__all__ = ["ZrayBackend"]

# As joblib's ``max_nbytes``, unless Parallel is given another: what is larger is shared.
SHARED_BYTES_MIN = 1 << 20


class ZrayBackend(AutoBatchingMixin, ParallelBackendBase):
    """``joblib.parallel_backend("ray", n_jobs=..., ray_remote_args={...})``.

    n_jobs: at most so many batches run at a time; -1 for as many as the cluster has CPUs.
    ray_remote_args: options of the tasks, such as ``num_cpus`` or ``resources``.

    A Parallel call inside a batch runs on threads of the batch's process, as with joblib's own backends.  Inside
    another ``parallel_backend("ray")`` it makes tasks.
    """

    default_n_jobs = -1
    supports_sharedmem = False
    uses_threads = False

    def __init__(self, nesting_level: int | None = None, inner_max_num_threads: int | None = None,
                 ray_remote_args: dict[str, Any] | None = None, **backend_kwargs: Any):
        if inner_max_num_threads is not None:
            raise ValueError("inner_max_num_threads is not supported: numeric libraries of a task get as many threads "
                             "as it has CPUs (ray_remote_args={'num_cpus': n})")
        super().__init__(nesting_level=nesting_level, **backend_kwargs)
        self.nesting_level: int | None = nesting_level
        self._remote_args = ray_remote_args
        self._executor: Executor | None = None
        self._n_jobs = 1
        self._shared_min: int | None = SHARED_BYTES_MIN
        self._shared: dict[int, tuple[Any, ObjectRef]] = {}  # id -> the object, which keeps the id, and its reference

    @property
    def supports_retrieve_callback(self) -> bool:  # type: ignore[override]
        """False in a task: there joblib blocks on the results, which gives the CPU back, and does not poll."""
        context = get_runtime_context()
        return context.get_task_id() is None and context.get_actor_id() is None

    supports_timeout = True  # type: ignore[assignment]

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at a time for this ``n_jobs`` of a user."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, int(cluster_resources().get("CPU", 1)) + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None,
                  max_nbytes: Any = SHARED_BYTES_MIN, **_: Any) -> int:
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self.nesting_level = self.nesting_level or 0
        self._n_jobs = n_jobs
        self._shared_min = max_nbytes if max_nbytes is None or isinstance(max_nbytes, int) else SHARED_BYTES_MIN
        self._executor = Executor(n_jobs, ray_remote_args=self._remote_args)
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Start a batch; ``callback`` gets its future."""
        assert self._executor is not None
        func, refs = self._without_large(func)
        future = self._executor.submit(_run_batch, func, *refs)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: Any) -> Any:
        return out.result()

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        return out.result(timeout)

    def _without_large(self, func: Any) -> tuple[Any, list[ObjectRef]]:
        """The batch with marks in place of large arguments, and the references of those."""
        items = getattr(func, "items", None)
        if items is None or self._shared_min is None:
            return func, []
        refs: dict[ObjectRef, int] = {}
        large = self._shared_min

        def mark(value: Any) -> Any:
            if _nbytes(value) < large:
                return value
            if id(value) not in self._shared:
                self._shared[id(value)] = (value, put(value))
            return _Shared(refs.setdefault(self._shared[id(value)][1], len(refs)))

        marked = [(function, tuple(map(mark, args)), {name: mark(value) for name, value in kwargs.items()})
                  for function, args, kwargs in items]
        if not refs:
            return func, []
        func = copy.copy(func)
        func.items = marked
        return func, list(refs)

    def stop_call(self) -> None:
        self._shared.clear()

    def terminate(self) -> None:
        self._shared.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A batch has failed: cancel the others."""
        if self._executor is not None:
            self._executor.cancel_all()
            self._executor = Executor(self._n_jobs, ray_remote_args=self._remote_args) if ensure_ready else None


class _Shared:
    """Stands for a large argument: the number of its reference among those of the batch."""

    __slots__ = ("number",)

    def __init__(self, number: int):
        self.number = number


def _run_batch(batch: Any, *values: Any) -> Any:
    """Run a batch of joblib in a task; ``values`` are its large arguments."""
    if values:
        def given(value: Any) -> Any:
            return values[value.number] if isinstance(value, _Shared) else value

        batch.items = [(function, tuple(map(given, args)), {name: given(value) for name, value in kwargs.items()})
                       for function, args, kwargs in batch.items]
    return batch()


def _nbytes(value: Any) -> int:
    """About how many bytes of data an argument has, if it is an array, a sparse matrix or a table; else 0."""
    if isinstance(value, (ObjectRef, type)):
        return 0
    found = getattr(value, "nbytes", None)
    if found is None:  # a sparse matrix has its numbers in ``data``, a table has a size
        found = getattr(getattr(value, "data", None), "nbytes", None)
    if not isinstance(found, int) and hasattr(value, "shape"):
        size = getattr(value, "size", 0)
        found = size * 8 if isinstance(size, int) else 0
    return int(found) if isinstance(found, int) else 0
