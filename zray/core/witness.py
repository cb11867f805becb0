"""A driver observes the end of its node, for the details of the error.

The connection to the node daemon closes a moment before its process has ended, and the session directory may be
removed soon after.  So the driver has a pidfd and the open log from the beginning.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from zray.base.formats import LOG_TAIL_BYTES
from zray.base.os_linux import process_state, readable

END_WAIT_S = 0.5  # from the end of the connection to the end of the process: microseconds, unless CPU is short


class Witness:
    """Observes process ``pid``, which logs to ``log``; call :meth:`account` when the connection to it has closed."""

    def __init__(self, pid: int, log: str) -> None:
        self.pid = pid
        self._log_path = log
        self._process = self._log = -1
        try:
            self._process = os.pidfd_open(pid)
        except (OSError, OverflowError):
            pass  # the process has just ended
        try:
            self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass

    def account(self) -> dict[str, Any]:
        """``reason``, ``pid``, ``signal``, ``exit_code``, ``log_tail``, as far as they can be known."""
        detail: dict[str, Any] = {"pid": self.pid, "log_tail": self._tail()}
        if self._process >= 0 and not readable(self._process, END_WAIT_S):
            state = process_state(self.pid)
            detail["reason"] = (f"the connection to it closed although its process (pid={self.pid}) lives"
                                + (", stopped by a signal" if state == "T" else ""))
            return detail
        detail["reason"] = f"its process (pid={self.pid}) {self._end(detail)}"
        detail["log_tail"] = self._tail()  # again: now the log is complete
        return detail

    def _end(self, detail: dict[str, Any]) -> str:
        """How the process ended; the kernel tells only its parent."""
        try:
            found = os.waitid(os.P_PIDFD, self._process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            found = None
        if found is None:
            return f"has ended; its log was {self._log_path}"
        if found.si_code == os.CLD_EXITED:
            detail["exit_code"] = found.si_status
            return f"ended with exit code {found.si_status}; its log was {self._log_path}"
        detail["signal"] = number = found.si_status
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"  # of real time
        hint = " (the kernel does so when memory runs out)" if number == signal.SIGKILL else ""
        return f"was ended by {name}{hint}; its log was {self._log_path}"

    def _tail(self) -> str:
        if self._log < 0:
            return ""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES)).decode(errors="replace")

    def close(self) -> None:
        for fd in (self._process, self._log):
            if fd >= 0:
                os.close(fd)
        self._process = self._log = -1
