"""Results of compiled graphs: CompiledDAGRef for ``get``, CompiledDAGFuture for ``await``."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from zray.dag.compiled import CompiledDAG


class _Result:
    """One output of one execution, which can be taken once."""

    def __init__(self, dag: CompiledDAG, index: int, place: int):
        self._dag = dag
        self._index = index
        self._place = place
        self._taken = False

    def _take(self, timeout: float | None) -> Any:
        """ValueError when it was taken; after a time-out it can be tried again."""
        from zray.base.graph_errors import RayChannelTimeoutError

        if self._taken:
            raise ValueError(self._again())
        self._taken = True
        try:
            return self._dag._fetch(self._index, self._place, timeout)
        except RayChannelTimeoutError:
            self._taken = False
            raise

    def _again(self) -> str:
        raise NotImplementedError

    def __del__(self) -> None:
        dag = self.__dict__.get("_dag")
        if dag is not None and not self._taken and not dag.is_teardown:
            dag._drop(self._index, self._place)

    def __copy__(self) -> NoReturn:
        raise ValueError(f"{type(self).__name__} cannot be copied.")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise ValueError(f"{type(self).__name__} cannot be deep copied.")

    def __reduce__(self) -> NoReturn:
        raise ValueError(f"{type(self).__name__} cannot be pickled.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(execution {self._index}, output {self._place})"


class CompiledDAGRef(_Result):
    """A result of ``execute``: ``ray.get(ref)`` or ``ref.get()``, once."""

    def get(self, timeout: float | None = None) -> Any:
        """The value; RayTaskError of the method that failed, RayChannelTimeoutError after ``timeout`` seconds.

        Without ``timeout`` the one of the graph counts; -1 means no limit.
        """
        return self._take(timeout)

    _zray_fetch = get  # zray.get finds it by this name

    def _again(self) -> str:
        return "ray.get() can only be called once on a CompiledDAGRef, and it was already called."


class CompiledDAGFuture(_Result):
    """A result of ``execute_async``: ``await future``, once."""

    def __await__(self) -> Generator[Any, None, Any]:
        if self._taken:
            raise ValueError(self._again())
        return asyncio.to_thread(self._take, None).__await__()

    def _again(self) -> str:
        return "CompiledDAGFuture can only be awaited upon once, and it has already been awaited upon."
