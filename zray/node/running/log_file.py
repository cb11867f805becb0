"""The handler behind zray.node.running.journal; a module of its own because it imports logging."""

from __future__ import annotations

import logging
import os
import sys


class LogFile(logging.Handler):
    """Appends to one file, and keeps one full one before it as ``.1``.

    Output of this process (descriptors 1 and 2) goes to the same file, so it counts: read the size, do not sum it.
    """

    def __init__(self, path: str, bytes_max: int, take_output: bool):
        super().__init__()
        self.path = path
        self.bytes_max = bytes_max
        self.take_output = take_output
        self._handle = -1
        self._open()

    def _open(self) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = handle
        if self.take_output:
            os.dup2(handle, 1)
            os.dup2(handle, 2)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if os.fstat(self._handle).st_size >= self.bytes_max:
                os.replace(self.path, self.path + ".1")
                self._open()
            os.write(self._handle, (self.format(record) + "\n").encode(errors="backslashreplace"))
        except OSError:
            pass  # a full disk must not end the node, and there is no better place to report it

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        super().close()


def open_log(path: str, bytes_max: int, take_output: bool) -> logging.Logger:
    """The logger of this node."""
    handler = LogFile(path, bytes_max, take_output)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("zray.node")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    if take_output and sys.stderr is not None:
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return logger
