"""The daemon as a supervisor sees it: systemd, a container's first process, a terminal that closes.

SIGTERM, SIGINT and SIGHUP end the node, which drains when others go on (zray/node/peers/leaving.py); it then exits with
0, as systemd expects of a service that was told to stop.  With nohup SIGHUP stays ignored.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn


class EndSignal(BaseException):
    """A signal came while the node starts; the message is its name."""


def end_signals() -> list[signal.Signals]:
    """What ends the node."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


@contextlib.contextmanager
def ends_early() -> Iterator[None]:
    """Until the loop takes the signals: raise EndSignal at the first one.

    A first process of a container is otherwise not ended by them, nor is its session directory removed.
    """
    def end(number: int, frame: Any) -> NoReturn:
        raise EndSignal(signal.Signals(number).name)

    for number in end_signals():
        signal.signal(number, end)
    yield


def survive_closed_output() -> None:
    """Our output may be a terminal or a pipe that is closed while we serve: then the words are lost, not the node."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, _Lenient(getattr(sys, name)))


class _Lenient(io.TextIOBase):
    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()
