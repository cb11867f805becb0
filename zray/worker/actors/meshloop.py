"""An asyncio loop whose selector waits in the mesh's loop: one thread, one wait, for both.

asyncio's own descriptors are in its epoll set, which is itself a descriptor that the mesh's poll watches.  While
asyncio waits, this thread leads the mesh; while asyncio is busy, each of its rounds takes a turn of the mesh.  Another
thread (run_in_executor) may lead instead, because it waits too: it wakes asyncio when the descriptor fires.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from typing import Any

from zray.transport.loop import Waiter

Events = list[tuple[selectors.SelectorKey, int]]


class MeshSelector(selectors.EpollSelector):
    """``select`` polls the mesh and asyncio's descriptors together.

    ``on_round()`` is called at the beginning and at the end of each select, on the asyncio thread.  Its calls run in
    the next round.  It returns True when it has scheduled any, so that select does not wait.
    """

    def __init__(self, loop: Any, on_round: Callable[[], bool]):
        super().__init__()
        self._loop = loop
        self._on_round = on_round
        self._waiter: Waiter | None = None
        self._events: Events = []
        self._thread = threading.get_ident()
        with loop.lock:
            loop.mesh.watch(self.fileno(), edges=True)
            self._outer = loop.on_turn
            loop.on_turn = self._on_turn

    def select(self, timeout: float | None = None) -> Events:
        loop = self._loop
        if self._on_round() or (timeout is not None and timeout <= 0):
            loop.turn()
            self._on_round()
            return super().select(0)
        waiter = self._waiter = Waiter()
        try:
            loop.wait(waiter, None if timeout is None else loop.clock() + timeout)
        finally:
            self._waiter = None
        self._on_round()
        if not self._events and loop.mesh.watched_fired:
            self._look()
        events, self._events = self._events, []
        return events

    def _on_turn(self) -> None:
        """At the beginning of each turn of the mesh: end asyncio's wait if it has events."""
        if self._outer is not None:
            self._outer()
        waiter = self._waiter
        if self._loop.mesh.watched_fired and waiter is not None and not waiter.done:
            if threading.get_ident() == self._thread:
                self._look()
                if not self._events:
                    return
            self._loop.notify(waiter)

    def _look(self) -> None:
        mesh = self._loop.mesh
        mesh.watched_fired = False  # before the select: it may fire in another thread's poll from now on
        self._events = super().select(0)
        if self._events:
            mesh.watched_fired = True  # there is no second edge for data that asyncio leaves unread

    def end_wait(self) -> bool:
        """Let ``select`` return (under the lock, on the asyncio thread).  False on any other thread."""
        if threading.get_ident() != self._thread:
            return False
        if self._waiter is not None:
            self._loop.notify(self._waiter)
        return True

    def close(self) -> None:
        with self._loop.lock:
            self._loop.on_turn = self._outer
        super().close()


class MeshEventLoop(asyncio.SelectorEventLoop):
    """The loop of an async actor."""

    def __init__(self, mesh_loop: Any, on_round: Callable[[], bool]):
        self.selector = MeshSelector(mesh_loop, on_round)
        super().__init__(self.selector)

    def next_round(self) -> None:
        """Call ``on_round`` soon.  For handlers, under the mesh's lock, on any thread.

        It makes no system call when the handler runs on this loop's thread.
        """
        if not self.selector.end_wait():
            self.call_soon_threadsafe(_nothing)


def _nothing() -> None:
    pass


def new_event_loop(mesh_loop: Any, on_round: Callable[[], bool]) -> MeshEventLoop:
    return MeshEventLoop(mesh_loop, on_round)
