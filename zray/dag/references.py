"""Results of compiled graphs: CompiledDAGRef for ``get``, CompiledDAGFuture for ``await``."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

from zray.dag.loop import value_of

if TYPE_CHECKING:
    from zray.dag.compiled import CompiledDAG


class _Result:
    """One output of one execution, which can be taken once."""

    def __init__(self, dag: CompiledDAG, index: int, place: int):
        self._dag = dag
        self._index = index
        self._place = place
        self._taken = False  # the graph sets it, with its lock, when it gives the result away

    def _take(self, timeout: float | None) -> Any:
        """ValueError when it was taken.  After any other end without the result it can be tried again."""
        return self._dag._fetch(self, timeout)

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
    """A result of ``execute_async``: ``await future``, once.

    An ``await`` that is cancelled takes nothing: the next one gets the result.
    """

    def __init__(self, dag: CompiledDAG, index: int, place: int):
        super().__init__(dag, index, place)
        self._awaited = False  # now, or to the end
        self._arrived: concurrent.futures.Future[Any] | None = None  # the result came while its await was cancelled

    def __await__(self) -> Generator[Any, None, Any]:
        if self._awaited:
            raise ValueError(self._again())
        self._awaited = True
        arrival, self._arrived = self._arrived or self._dag._await(self), None
        try:
            received = yield from asyncio.wrap_future(arrival).__await__()
        except BaseException:  # cancelled, or it did not come
            self._awaited = False
            if not self._dag._withdraw(self) and self._taken:
                self._arrived = arrival
            raise
        return value_of(received)

    def _again(self) -> str:
        return "CompiledDAGFuture can only be awaited upon once, and it has already been awaited upon."
