"""OpenTelemetry spans of runs: each is a child of the span of its submission, and the parent of what user code traces.

Only in a job with a tracing startup hook: then :func:`trace_runs` puts itself around the general way of a run.  A task
with a context has an extra map, so the executor's hot loop does not take it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from zray.core import tracing
from zray.core.runtime import Runtime
from zray.core.tracing import TracedCalls
from zray.worker.queue import EXTRA, TASK_ID
from zray.worker.run.results import failure_in

LAST_FLUSH_S = 0.04  # a node waits 50 ms for the last report of a worker

logger = logging.getLogger("zray")


class TracedRuns:
    """The runs of one process."""

    def __init__(self, calls: TracedCalls, executor: Any):
        self.calls = calls
        self.executor = executor

    def install(self) -> None:
        executor = self.executor
        executor.tracing = self
        executor.run_one = self._around_run(executor.run_one)
        executor.machine._report = self._flushing(executor.machine._report)

    def _around_run(self, run_one: Callable[..., Any]) -> Callable[..., Any]:
        def run(task: list[Any], lease: Any, interrupts: Any) -> Any:
            trace = (task[EXTRA] or {}).get("trace")
            if not trace:
                return run_one(task, lease, interrupts)
            with self._span(trace, self.executor.name_of(task), task[TASK_ID]) as span:
                result = run_one(task, lease, interrupts)
                _note_failure(span, result)
            return result

        return run

    def around_coroutine(self, result_of: Callable[..., Any]) -> Callable[..., Any]:
        """Around the calls of an async actor."""
        async def run(lease: Any, task: list[Any], name: str) -> Any:
            trace = (task[EXTRA] or {}).get("trace")
            if not trace:
                return await result_of(lease, task, name)
            with self._span(trace, name, task[TASK_ID]) as span:
                result = await result_of(lease, task, name)
                _note_failure(span, result)
            return result

        return run

    def around_constructor(self, construct: Callable[..., Any], spec: dict[str, Any]) -> Callable[..., Any]:
        def constructing(cls: Any, task: list[Any]) -> Any:
            trace = spec.get("trace")
            if not trace:
                return construct(cls, task)
            with self._span(trace, f"{cls.__name__}.__init__", task[TASK_ID]):
                return construct(cls, task)

        return constructing

    @contextlib.contextmanager
    def _span(self, trace: Any, name: str, task: bytes) -> Iterator[Any]:
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        kind = "actor" if self.executor.actor is not None else "task"
        with self.calls.tracer.start_as_current_span(
                f"{name} ray.remote_worker", context=propagate.extract(trace), kind=SpanKind.CONSUMER,
                attributes={"ray.remote": kind, "ray.function": name, "ray.task_id": task.hex(), **self.calls.about()},
                ) as span:
            yield span

    def _flushing(self, call: Callable[[], None]) -> Callable[[], None]:
        def last_report() -> None:
            tracing.flush(LAST_FLUSH_S)
            call()

        return last_report


def _note_failure(span: Any, result: Any) -> None:
    from opentelemetry.trace import StatusCode

    failure = failure_in(result) if type(result) is list else None
    if failure is not None:
        from zray.base.error_types import error_of

        text = error_of(failure[1], failure[2])[1]
        span.set_status(StatusCode.ERROR, text.rstrip().rpartition("\n")[2])  # the line of the exception itself


def trace_runs(runtime: Runtime, executor: Any, hook: str) -> None:
    """Trace the runs and submissions of this worker from now on; a hook that fails is logged, and nothing is traced."""
    try:
        calls = tracing.begin(runtime, hook)
    except Exception:  # user code
        logger.exception("the tracing startup hook %s failed in this worker, so its spans are missing", hook)
        return
    TracedRuns(calls, executor).install()
