"""Futures of references, for concurrent.futures and asyncio.

One thread, started at the first use, loads values and ends futures: never under the loop lock, and never on the thread
that polls.  Users' callbacks run on threads of their own: see zray.core.waits.callbacks.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import TYPE_CHECKING, Any

from zray.core.machine import CoreMachine
from zray.core.stored import Stored
from zray.core.turns import Turns
from zray.core.values import NotReady, Values
from zray.core.waits.callbacks import Callbacks, GuardedFuture, when_done
from zray.transport.loop import Loop

if TYPE_CHECKING:
    from queue import SimpleQueue

    from zray.handles.refs import MapRefs, ObjectRef

__tracebackhide__ = True  # pytest leaves these frames out of its reports

# The end of the session waits so long for the futures, and for callbacks, in seconds.
CLOSE_S = 1.0


class Futures:
    """The futures of one Runtime."""

    def __init__(self, machine: CoreMachine, loop: Loop, turns: Turns, values: Values, stored: Stored):
        self._refs = machine.refs
        self._lock = loop.lock
        self._kick = turns.kick
        self._values = values
        self._stored = stored
        self._queue: SimpleQueue[Any] | None = None
        self._thread: threading.Thread | None = None
        self._callbacks = Callbacks()

    def future(self, ref: ObjectRef) -> Future[Any]:
        """A future that gets the value or the error of ``ref``, and keeps ``ref`` alive."""
        future: Future[Any] = GuardedFuture()
        self.fulfil(future, ref)
        return future

    def fulfil(self, future: Future[Any], ref: ObjectRef) -> None:
        """As :meth:`future`, with a GuardedFuture of the caller."""
        future.object_ref = ref  # type: ignore[attr-defined]
        self._start()
        queue = self._queue
        assert queue is not None
        self._when_ready(future, ref._record, queue)

    def map_future(self, refs: MapRefs) -> Future[None]:
        """A future that ends when every item of a map has ended.  It has no values and raises no item's error."""
        future: Future[None] = GuardedFuture()
        batch = refs._batch

        def arrived(_: Any) -> None:
            self._queue.put(partial(_end, future))  # type: ignore[union-attr]

        self._start()
        with self._lock:
            if batch.remaining:
                batch.waiters = [*(batch.waiters or ()), arrived]
            else:
                arrived(batch)
        self._kick()
        return future

    def _when_ready(self, future: Future[Any], record: Any, queue: SimpleQueue[Any]) -> None:
        def arrived(record: Any) -> None:
            queue.put((future, record))

        def done(future: Future[Any]) -> None:
            if future.cancelled():
                with self._lock:
                    self._refs.forget_waiter(record, arrived)

        with self._lock:
            if self._refs.when_ready(record, arrived):
                arrived(record)
                return
        if not future.running():  # else nothing cancels it
            when_done(future, done)
        self._kick()

    async def arrival(self, record: Any) -> None:
        """Wait until ``record`` has a value, without blocking the running asyncio loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        waiting = loop.create_future()

        def arrived(_: Any) -> None:
            _wake(loop, waiting)

        with self._lock:
            if self._refs.when_ready(record, arrived):
                return
        self._kick()
        try:
            await waiting
        except asyncio.CancelledError:
            with self._lock:
                self._refs.forget_waiter(record, arrived)
            raise

    async def brought(self, value: Any) -> None:
        """Wait until a stored value of another node is here, or its transfer has failed."""
        import asyncio

        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        with self._lock:
            distant = self._stored.value_to_transfer(value)
            if distant is None:
                return
            pending = self._stored.fetch(distant, lambda _: _wake(loop, waiting))
        self._kick()
        try:
            await waiting
        except asyncio.CancelledError:
            with self._lock:
                self._stored.leave(pending)
            raise

    async def stream_arrival(self, stream: Any) -> None:
        """Wait until a generator has another item or has ended."""
        import asyncio

        loop = asyncio.get_running_loop()
        waiting = loop.create_future()

        def arrived(_: Any) -> None:
            _wake(loop, waiting)

        with self._lock:
            if stream.ready or stream.ended:
                return
            stream.waiters = [*(stream.waiters or ()), arrived]
        self._kick()
        try:
            await waiting
        except asyncio.CancelledError:
            with self._lock:
                self._refs.forget_waiter(stream, arrived)
            raise

    def run(self, call: Callable[[], None]) -> None:
        """Run ``call`` on the thread of futures; it must not raise."""
        self._start()
        assert self._queue is not None
        self._queue.put(call)

    def log(self, level: int, text: str) -> None:
        """Log to ``zray`` without the lock: a handler of the user may submit tasks, take long, or raise."""
        self.run(partial(log_guarded, level, text))

    def close(self) -> None:
        if self._queue is not None and self._thread is not None:
            self._queue.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join(CLOSE_S)
                self._callbacks.close(CLOSE_S)

    def _start(self) -> None:
        if self._thread is None:
            from queue import SimpleQueue

            self._queue = SimpleQueue()
            self._thread = threading.Thread(target=self._run, name="zray-futures", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        assert self._queue is not None
        self._callbacks.hold()
        while (item := self._queue.get()) is not None:
            if callable(item):
                item()
                continue
            try:
                self._finish(*item)
            except InvalidStateError:  # the user has ended this future; the others must not wait for ever
                log_guarded(logging.WARNING, f"the future of {item[0].object_ref!r} has a result that zray did not set")

    def _finish(self, future: Future[Any], record: Any) -> None:
        if not future.running() and (future.done() or not future.set_running_or_notify_cancel()):
            return
        try:
            value = self._values.load(record)
        except NotReady:
            self._when_ready(future, record, self._queue)  # type: ignore[arg-type]
        except BaseException as error:  # the future raises the task's exception again
            future.set_exception(error)
        else:
            future.set_result(value)


def _end(future: Future[None]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(None)


def _wake(loop: Any, waiting: Any) -> None:
    """Wake an asyncio future.  Called under the loop lock, in the middle of a transition: must not raise."""
    with contextlib.suppress(RuntimeError):  # the asyncio loop was closed during an await
        loop.call_soon_threadsafe(_set, waiting)


def _set(waiting: Any) -> None:
    if not waiting.done():
        waiting.set_result(None)


def log_guarded(level: int, text: str) -> None:
    try:
        logging.getLogger("zray").log(level, "%s", text)
    except Exception:  # raised by a handler or filter of the user
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
