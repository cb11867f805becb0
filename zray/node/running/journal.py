"""logs/node.log: events of a node, through the logging module.

Events before the node serves are kept, and written by :meth:`Journal.open`: no start waits for it.
The file is bounded: at its limit it becomes node.log.1 and replaces the last one.  Secrets do not
get in: of jobs only number and pid are named, and join strings are cut.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.base.config import DEFAULTS

if TYPE_CHECKING:
    import logging

NODE_LOG = "node.log"
EARLY_EVENTS_MAX = 1000  # events that are kept before the file is open
JOIN = re.compile(r"zray://[^\s'\"]+")


class Journal:
    """The log of one node."""

    def __init__(self, session_dir: str, bytes_max: int = DEFAULTS.log_bytes_max):
        self._bytes_max = bytes_max
        self.path = os.path.join(session_dir, "logs", NODE_LOG)
        self._logger: logging.Logger | None = None
        self._early: deque[tuple[float, str, BaseException | None]] = deque(maxlen=EARLY_EVENTS_MAX)

    def open(self, take_output: bool) -> None:
        """Write to the file from now on; with ``take_output`` also the output of this process and
        reports of native code."""
        from zray.node.running.log_file import open_log

        try:
            self._logger = open_log(self.path, self._bytes_max, take_output)
        except OSError:
            return  # a full disk must not stop a node from serving
        while self._early:
            self._write(*self._early.popleft())

    def note(self, text: str, error: BaseException | None = None) -> None:
        """Log an event; an ``error`` with its traceback."""
        if self._logger is None:
            self._early.append((time.time(), text, error))
            if error is not None:
                sys.excepthook(type(error), error, error.__traceback__)
        else:
            self._write(time.time(), text, error)

    def _write(self, at: float, text: str, error: BaseException | None) -> None:
        import logging

        assert self._logger is not None
        text = JOIN.sub("zray://(secret)", text)
        exc_info = (type(error), error, error.__traceback__) if error is not None else None
        record = logging.LogRecord("zray.node", logging.ERROR if error else logging.INFO, "", 0, text, None, exc_info)
        record.created = at
        record.msecs = at % 1 * 1000
        self._logger.handle(record)

    def close(self) -> None:
        if self._logger is not None:
            for handler in self._logger.handlers[:]:
                self._logger.removeHandler(handler)
                handler.close()
            self._logger = None


def _worker_died(d: dict[str, Any]) -> str:
    if d["signal"]:
        how = f"was ended by signal {d['signal']}"
    elif d["exit_code"]:
        how = f"exited with code {d['exit_code']}"
    else:
        how = "exited"
    parts = [f"worker {d['pid']} ({d['worker'].hex()}) {how}"]
    parts += [f"of job {d['job']}"] if d["job"] else []
    parts += [f"while it ran {d['task']}"] if d.get("task") else []
    parts += [f"because: {d['reason']}"] if d["reason"] else []
    return ", ".join(parts)


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "job_started": lambda d: f"job {d['job']} begins; its driver is process {d['pid']}",
    "job_over": lambda d: f"job {d['job']} is over: {d['reason']}",
    "worker_died": _worker_died,
    "actor": lambda d: f"actor {d['actor'].hex()} ({d['class_name']}) is {d['state']}, life {d['life']}"
                       + (f": {d['reason']}" if d.get("reason") else ""),
    "node_joined": lambda d: f"node {d['node']} joined, at {d['endpoint']}",
    "node_gone": lambda d: f"node {d['node']} is gone: {d['reason']}",
    "spawn_failed": lambda d: f"no worker could be started: {d['error']}",
    "resize_refused": lambda d: f"actor {d['actor'].hex()} keeps what it was placed with: {d['error']}",
    "refused": lambda d: f"refused a message of {d['peer'].hex()}: {d['why']}",
}


def text_of(kind: str, detail: dict[str, Any]) -> str:
    """A Note of the machine as text."""
    return TEXTS[kind](detail) if kind in TEXTS else f"{kind}: {detail}"
