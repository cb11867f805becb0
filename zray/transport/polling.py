"""The descriptors that a mesh polls: those of its sockets, and an eventfd that wakes it.

ZeroMQ's descriptors signal edges, and any call of a socket may clear one.  So from such a call on,
until its EVENTS show nothing to read, a socket is "dirty"; a descriptor that fires makes it dirty too.
A look at EVENTS costs 2-3 us, so only dirty sockets are looked at.
"""

from __future__ import annotations

import os
import select

from zray.channels.ring import RingReader
from zray.channels.waiting import RingWait

RINGS_ONLY_MAX = 16  # polls that end with a frame in a ring, until one looks at the sockets too: they would starve


class Polling:
    """Two pollers, one for callers and one for the service thread, over the same descriptors."""

    closed = False
    _rings: tuple[RingReader, ...] = ()

    def _open_pollers(self, inbound_fd: int, outbound_fd: int, monitor_fd: int, spin_s: float) -> None:
        self._ring_wait = RingWait(spin_s, self)
        self._ring_fds: set[int] = set()  # descriptors of ways through shared memory that have fired
        self._rings_only = 0  # polls in a row that have looked at rings only
        self._inbound_fd, self._outbound_fd, self._monitor_fd = inbound_fd, outbound_fd, monitor_fd
        self._tcp_fd = self._watched_fd = -1
        self.watched_fired = False  # a poll has seen the watched descriptor; the caller that looks at it resets this
        self._in_dirty = self._out_dirty = True
        self._in_fired = self._out_fired = False
        self._tcp_dirty = self._tcp_fired = False
        self._monitored = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.woken = False
        self._pollers = (select.epoll(), select.epoll())
        for fd in (inbound_fd, outbound_fd, monitor_fd, self._wake_fd):
            self._register(fd)

    def _register(self, fd: int) -> None:
        for poller in self._pollers:
            poller.register(fd, select.EPOLLIN)

    def _unregister(self, fd: int) -> None:
        self._ring_fds.discard(fd)
        for poller in self._pollers:
            poller.unregister(fd)

    def _poll_rings(self, rings: tuple[RingReader, ...]) -> None:
        """These are the rings of the process now.

        A thread that polls meanwhile begins anew: it would not tell the writer of a new ring that it sleeps.
        """
        self._rings = rings
        self.wake()

    def _close_pollers(self) -> None:
        self._ring_wait.close()
        for poller in self._pollers:
            poller.close()
        os.close(self._wake_fd)

    def poll(self, timeout_s: float | None, service: bool = False) -> None:
        """Block until something arrived, wake() was called, or the time passed.  Needs no lock; touches no socket."""
        rings = self._rings
        if rings and (timeout_s is None or timeout_s > 0) and self._ring_wait.must_not_block(rings, not service):
            self._rings_only += 1
            if self._rings_only < RINGS_ONLY_MAX:
                return
            timeout_s = 0
        self._rings_only = 0
        try:
            events = self._pollers[service].poll(timeout_s)  # rounds up to milliseconds, so never early
        except ValueError:
            if not self.closed:
                raise
            return  # closed while this thread was on its way here
        for fd, _ in events:
            if fd == self._monitor_fd:
                self._monitored = True
            elif fd == self._outbound_fd:
                self._out_fired = self._out_dirty = True
            elif fd == self._inbound_fd:
                self._in_fired = self._in_dirty = True
            elif fd == self._tcp_fd:
                self._tcp_fired = self._tcp_dirty = True
            elif fd == self._watched_fd:
                self.watched_fired = True
            elif fd != self._wake_fd:
                self._ring_fds.add(fd)
                self._ring_wait.rung()

    def watch(self, fd: int, edges: bool = False) -> None:
        """``poll`` also ends while ``fd`` is readable (a node daemon's epoll descriptor); the caller looks at it.

        ``edges``: end it only when ``fd`` becomes readable, for pollers whose thread cannot look at it.
        """
        self._watched_fd = fd
        self._pollers[0].register(fd, select.EPOLLIN | (select.EPOLLET if edges else 0))

    def wake(self) -> None:
        """End the poll that is under way, or the next one.  Callable from any thread and from signal handlers."""
        if not self.woken:
            self.woken = True
            os.eventfd_write(self._wake_fd, 1)

    def clear_wake(self) -> None:
        """The leader calls this, under the lock, before it looks for the reason of the wake-up."""
        if self.woken:
            try:
                os.eventfd_read(self._wake_fd)
            except BlockingIOError:
                pass  # wake() has set the flag and not written yet; the poll to come ends at once
            else:
                self.woken = False
