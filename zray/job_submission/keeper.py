"""The process between a job's supervisor and its entrypoint: it ends with all that the entrypoint started.

Run as a file (``python -I -S keeper.py``), so it needs 10 ms and imports nothing of zray.  It leads a session of its
own, because the node kills the process group of a worker that dies, and this process must outlive it to clean up.

    supervisor -> stdin    {"entrypoint", "log", "log_bytes_max", "grace_s"}, then "stop" or the end of file
    stdout -> supervisor   {"pid"}, then {"returncode", "stopped"} or {"error"}

A stop sends SIGTERM to the entrypoint's process group, and SIGKILL after ``grace_s``.  When the entrypoint has ended,
the rest of its group and every process that left the group get SIGKILL: they come to this process as a subreaper.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import time

SIGNAL_AT_PARENTS_END = 1  # of prctl: PR_SET_PDEATHSIG
ADOPT_DESCENDANTS = 36  # of prctl: PR_SET_CHILD_SUBREAPER
OUTPUT_BYTES = 1 << 16
LOOK_S = 0.02  # how often to look whether processes that lost their shell have ended; nothing announces it
DRAIN_S = 2.0  # for output that is still in the pipe; its writers are dead


class Log:
    """The log file, up to a number of bytes; the rest is counted."""

    def __init__(self, path, bytes_max):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._left = bytes_max
        self._dropped = 0

    def write(self, piece):
        kept = piece[:self._left]
        self._left -= len(kept)
        self._dropped += len(piece) - len(kept)
        view = memoryview(kept)
        with contextlib.suppress(OSError):  # a full disk loses output and not the job
            while view:
                view = view[os.write(self._file, view):]

    def close(self):
        if self._dropped:
            note = f"\n[the log is full: {self._dropped} more bytes were dropped]\n".encode()
            with contextlib.suppress(OSError):
                os.write(self._file, note)
        os.close(self._file)


def report(**found):
    with contextlib.suppress(OSError):  # the supervisor may be dead
        os.write(1, json.dumps(found).encode() + b"\n")


def start(entrypoint, output, libc, keeper):
    """The entrypoint in a shell and a process group of its own; it dies with this process."""
    def in_child():
        libc.prctl(SIGNAL_AT_PARENTS_END, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)

    return subprocess.Popen(entrypoint, shell=True, executable="/bin/bash" if os.path.exists("/bin/bash") else None,
                            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                            preexec_fn=in_child)


def signal_group(group, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def others(spared):
    """The children of this process but ``spared``, without those that have ended: these are collected."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        children = [int(pid) for pid in file.read().split() if int(pid) != spared]
    return [pid for pid in children if os.waitpid(pid, os.WNOHANG) == (0, 0)]


def kill_others(spared):
    """SIGKILL the children of this process but ``spared``; whether there were any.  Theirs become ours."""
    children = others(spared)
    killed = []
    for pid in children:
        with contextlib.suppress(PermissionError):  # of another user, such as of sudo: it stays
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    for pid in killed:
        os.waitpid(pid, 0)
    return bool(killed)


class Keeper:
    def __init__(self, job, child, output):
        self.job = job
        self.child = child
        self.output = output
        self.log = Log(job["log"], job["log_bytes_max"])
        self.stopped = False
        self.kill_at = None

    def stop(self):
        if not self.stopped:
            self.stopped = True
            self.kill_at = time.monotonic() + self.job["grace_s"]
            signal_group(self.child.pid, signal.SIGTERM)

    def serve(self):
        """Until the entrypoint has ended, and after a stop also the processes that it started, if they do in time."""
        ended = os.pidfd_open(self.child.pid)
        poll = select.poll()
        for handle in (0, self.output, ended):
            poll.register(handle, select.POLLIN)
        is_over = False
        while True:
            ready = {handle for handle, _ in poll.poll(self.wait_ms(is_over))}
            if self.output in ready and not self.copy():
                poll.unregister(self.output)
            if 0 in ready:
                piece = os.read(0, OUTPUT_BYTES)
                if not piece:
                    poll.unregister(0)
                if not piece or b"stop" in piece:
                    self.stop()
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.kill_at = None
                signal_group(self.child.pid, signal.SIGKILL)
                kill_others(self.child.pid)
            if ended in ready:
                poll.unregister(ended)
                is_over = True
            if is_over and (self.kill_at is None or not others(self.child.pid)):
                break
        os.close(ended)

    def wait_ms(self, is_over):
        if self.kill_at is None:
            return None
        left = max(0.0, self.kill_at - time.monotonic())
        return (min(LOOK_S, left) if is_over else left) * 1000

    def copy(self):
        """A piece of output into the log; False at the end of the pipe."""
        piece = os.read(self.output, OUTPUT_BYTES)
        self.log.write(piece)
        return bool(piece)

    def clean_up(self):
        """Kill what the entrypoint left, and take the last output."""
        signal_group(self.child.pid, signal.SIGKILL)  # the number is ours until we collect the child
        while kill_others(self.child.pid):
            pass
        self.child.wait()
        end = time.monotonic() + DRAIN_S
        os.set_blocking(self.output, False)
        with contextlib.suppress(BlockingIOError):
            while self.copy() and time.monotonic() < end:
                pass
        self.log.close()


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(ADOPT_DESCENDANTS, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the entrypoint would inherit
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            return
        line += piece
    job = json.loads(line)
    read, write = os.pipe()
    try:
        child = start(job["entrypoint"], write, libc, os.getpid())
        os.close(write)
        keeper = Keeper(job, child, read)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report(error=f"{type(error).__name__}: {error}")
        return
    report(pid=child.pid)
    keeper.serve()
    keeper.clean_up()
    report(returncode=child.returncode, stopped=keeper.stopped)


if __name__ == "__main__":
    main()
    os._exit(0)  # the end of an interpreter puts signals back, and one more would look like a death
