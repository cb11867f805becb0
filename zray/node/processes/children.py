"""Processes of the node: workers and zygote by SIGCHLD, drivers by pidfd, all through one epoll descriptor.

The mesh polls only this epoll descriptor, so thousands of processes cost it one entry.  Children
need no pidfd: a dead child keeps its number until we collect it, and SIGCHLD wakes us within a
millisecond.  The daemon is a subreaper, so it also collects orphans of workers (a multiprocessing
pool that lost its parent).  Other processes in a dead worker's process group are killed with it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

from zray.node.processes import linux
from zray.node.processes.linux import Ended
from zray.node.running.supervision import end_signals

FORKED_NAMES = ("zray-zygote", "zray-worker")  # of the zygote, the process through which it forks, and workers
FRESH_WORKER = b"from zray.node.processes.zygote import fresh"  # in the command of a worker that executes Python again


class Children:
    """Collects ended children; calls ``on_exit(incarnation, pid, Ended)`` for workers."""

    def __init__(self, on_exit: Callable[[bytes, int, Ended], None], on_zygote_exit: Callable[[Ended], None]):
        self._on_exit = on_exit
        self._on_zygote_exit = on_zygote_exit
        self.workers: dict[int, bytes] = {}  # pid -> incarnation
        self.pids: dict[bytes, int] = {}
        self.zygote = 0
        self.helpers: dict[int, Callable[[Ended], None]] = {}  # further children by pid; called back once they end
        self.expected = 0  # forks that were requested and not yet reported
        # collected meanwhile: one may be a requested worker, dead before its report
        self._strays: dict[int, Ended] = {}

    def add(self, incarnation: bytes, pid: int) -> None:
        """The zygote started a worker; it may be dead already."""
        ended = self._strays.pop(pid, None)
        self.expected -= 1
        if not self.expected:
            self._strays.clear()
        if ended is not None:
            self._on_exit(incarnation, pid, ended)
            return
        self.workers[pid] = incarnation
        self.pids[incarnation] = pid

    def kill(self, incarnation: bytes) -> bool:
        """SIGKILL a worker and the processes that it started; False when it has no process."""
        pid = self.pids.get(incarnation)
        if pid is None:
            return False
        _kill_group(pid)
        os.kill(pid, signal.SIGKILL)  # it is ours and not collected, so the number still names it
        return True

    def collect(self) -> None:
        """Take every child that has ended."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            if pid in self.workers:
                _kill_group(pid)  # while the number is still taken
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            exited = found.si_code == os.CLD_EXITED
            ended = Ended(0, found.si_status) if exited else Ended(found.si_status, 0)
            incarnation = self.workers.pop(pid, None)
            if incarnation is not None:
                del self.pids[incarnation]
                self._on_exit(incarnation, pid, ended)
            elif pid in self.helpers:
                self.helpers.pop(pid)(ended)
            elif pid == self.zygote:
                self._on_zygote_exit(ended)
            elif self.expected:
                self._strays[pid] = ended

    def kill_all(self) -> bool:
        """SIGKILL workers, zygote, and forks of the zygote that no report has named yet; False once no child is left.

        Call it again after each :meth:`collect`: the children of a killed process are ours once that is collected.
        """
        for incarnation in list(self.pids):
            self.kill(incarnation)
        forks = self._unreported()
        if self.zygote and self.zygote not in forks:
            forks.append(self.zygote)
        for pid in forks:
            os.kill(pid, signal.SIGKILL)
        return bool(self.workers or self.helpers or forks)


    def zygote_ended(self) -> None:
        """Its reports have been read: end what it forked and did not report, since nobody knows those workers."""
        self.zygote = self.expected = 0
        self._strays.clear()
        while forks := self._unreported():  # with the intermediate process, its children become ours
            for pid in forks:
                os.kill(pid, signal.SIGKILL)
            for pid in forks:
                os.waitpid(pid, 0)

    def _unreported(self) -> list[int]:
        """Children that are the zygote, or that it forked and no report has named yet."""
        return [pid for pid in linux.children(os.getpid()) if pid not in self.workers and pid not in self.helpers
                and (linux.name_of(pid) in FORKED_NAMES or FRESH_WORKER in linux.command_of(pid))]


def _kill_group(leader: int) -> None:
    """A worker leads a process group of its own once it has called setsid."""
    try:
        if os.getpgid(leader) == leader:
            os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # the group is empty, or its processes changed their user


class Watcher:
    """Descriptors behind one epoll descriptor, each with a callback."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def pause(self, fd: int) -> None:
        """Ignore ``fd`` until :meth:`resume`."""
        self._epoll.modify(fd, 0)

    def resume(self, fd: int) -> None:
        self._epoll.modify(fd, select.EPOLLIN)

    def want_write(self, fd: int, wanted: bool) -> None:
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def remove(self, fd: int) -> None:
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def run(self) -> None:
        """Call back for the descriptors that are ready now."""
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()

    def close(self) -> None:
        self._epoll.close()


class Processes:
    """Other processes (drivers, tools, the parent) watched by pidfd."""

    def __init__(self, watcher: Watcher):
        self._watcher = watcher
        self._fds: dict[bytes, int] = {}

    def watch(self, name: bytes, pid: int, on_exit: Callable[[], None]) -> None:
        """Call ``on_exit`` once when ``pid`` ends; at once when it is gone already."""
        if name in self._fds:
            return
        try:
            fd = os.pidfd_open(pid)
        except (ProcessLookupError, ValueError, OverflowError):
            on_exit()
            return

        def ended() -> None:
            self.forget(name)
            on_exit()

        self._fds[name] = fd
        self._watcher.add(fd, ended)

    def forget(self, name: bytes) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            self._watcher.remove(fd)
            os.close(fd)

    def close(self) -> None:
        for name in list(self._fds):
            self.forget(name)


class Signals:
    """SIGCHLD, SIGTERM, SIGINT and SIGHUP as readable bytes."""

    def __init__(self, watcher: Watcher, on_child: Callable[[], None], on_stop: Callable[[], None]):
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._on_child = on_child
        self._on_stop = on_stop
        self._numbers = {signal.SIGCHLD, *end_signals()}
        for number in self._numbers:
            signal.signal(number, lambda *_: None)  # the byte below does the work, in the loop
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        watcher.add(self._read.fileno(), self._arrived)

    def _arrived(self) -> None:
        try:
            numbers = set(self._read.recv(4096))
        except BlockingIOError:
            return
        self._on_child()  # a full buffer may have lost a SIGCHLD
        if numbers & (self._numbers - {signal.SIGCHLD}):
            self._on_stop()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in self._numbers - {signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)  # one more signal must not interrupt the last cleanup
        self._read.close()
        self._write.close()
