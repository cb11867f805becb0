"""Results of compiled graphs: CompiledDAGRef for ``get``, CompiledDAGFuture for ``await``."""

from __future__ import annotations

import asyncio
import concurrent.futures
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

    A thread takes the result.  It goes on when the ``await`` is cancelled, and the next ``await`` waits for it.
    """

    def __init__(self, dag: CompiledDAG, index: int, place: int):
        super().__init__(dag, index, place)
        self._awaited = False  # now, or to the end
        self._thread: concurrent.futures.Future[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        if self._awaited:
            raise ValueError(self._again())
        self._awaited = True
        if self._thread is None:
            self._thread = self._start()
        thread, ended = self._thread, False
        try:
            value = yield from asyncio.wrap_future(thread).__await__()
            ended = True
            return value
        except Exception:
            ended = self._taken  # the error of the operation; else the thread ended without the result
            self._thread = None
            raise
        finally:
            self._awaited = ended
            if ended:
                self._thread = None  # it holds the value

    def _start(self) -> concurrent.futures.Future[Any]:
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()  # from here on nothing cancels it

        def run() -> None:
            try:
                outcome.set_result(self._take(None))
            except BaseException as error:  # for whoever awaits
                outcome.set_exception(error)

        asyncio.get_running_loop().run_in_executor(None, run)
        return outcome

    def _again(self) -> str:
        return "CompiledDAGFuture can only be awaited upon once, and it has already been awaited upon."
