"""The daemon as a supervisor sees it: systemd, a container's first process, a terminal that closes.

SIGTERM, SIGINT and SIGHUP end the node.  It drains when other nodes go on
(zray/node/peers/leaving.py), and exits with 0, as systemd expects of a service that it stops.  With
nohup SIGHUP stays ignored.
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
    """The signals that end the node."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


@contextlib.contextmanager
def ends_early() -> Iterator[None]:
    """Raise EndSignal at the first signal, until the loop handles signals.

    Otherwise they would not end the first process of a container, nor would its session directory be removed.
    """
    def end(number: int, frame: Any) -> NoReturn:
        raise EndSignal(signal.Signals(number).name)

    for number in end_signals():
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, end_signals())  # a daemon that begins again has held them back
    yield


def survive_closed_output() -> None:
    """Our output may be a terminal or a pipe that is closed while we serve: then the output is lost, not the node."""
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
