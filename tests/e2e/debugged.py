"""Tasks that wait in the debugger, as tests see and serve them."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.e2e.scripts import environment
from tests.e2e.target import ray, until


def answer(*command: str, code: int | None = 0) -> str:
    """What a command of zray prints, run in this process; ``code`` is its exit code, None for any."""
    from click.testing import CliRunner

    from zray.cli import main

    done = CliRunner().invoke(main, command)
    assert code in (None, done.exit_code), done.output
    return done.output


def session_dir() -> str:
    return ray.get_runtime_context().get_temp_dir()


def stops(session: str | None = None) -> list[Any]:
    from zray.debugging import places

    return places.stops(session or session_dir())


def one_stop(session: str | None = None, **columns: Any) -> Any:
    """The stop with these columns, as soon as it waits for a terminal; there must be one."""
    def found() -> list[Any]:
        from zray.debugging.places import socket_path

        return [stop for stop in stops(session) if os.path.exists(socket_path(session or session_dir(), stop.id))
                and all(getattr(stop, name) == value for name, value in columns.items())]

    (stop,) = until(found, lambda: f"a stop with {columns}; there are {stops(session)}")
    return stop


# The command takes the terminal, and Ctrl-C also where the run of the tests ignores or blocks it.
IN_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
from zray.cli import main
sys.exit(main())
"""


class Attached:
    """A terminal without a terminal: what the debugger says up to its next prompt, for each line."""

    def __init__(self, wire: Any):
        self._wire = wire
        self.is_over = False
        self.greeting = self._until_asked()

    def say(self, line: str) -> str:
        self._wire.send("line", line)
        return self._until_asked()

    def complete(self, text: str, line: str) -> list[str]:
        self._wire.send("complete", text, line, len(line) - len(text), len(line))
        kind, words = self._wire.receive()
        assert kind == "found"
        return words

    def leave(self) -> None:
        self._wire.close()

    def _until_asked(self) -> str:
        text = ""
        while True:
            kind, content = self._wire.receive()
            if kind == "ask":
                return text
            text += content
            if kind == "end":
                self.is_over = True
                return text


@contextlib.contextmanager
def attached(stop: Any, session: str | None = None) -> Iterator[Attached]:
    from zray.debugging.terminal import connect

    terminal = Attached(connect(session or session_dir(), stop))
    try:
        yield terminal
    finally:
        terminal.leave()


class Typist:
    """A command of zray in a terminal of its own."""

    def __init__(self, *arguments: str, **env: str):
        self.text = ""
        self.fd, inside = pty.openpty()
        self._process = subprocess.Popen([sys.executable, "-c", IN_TERMINAL, *arguments], stdin=inside, stdout=inside,
                                         stderr=inside, start_new_session=True, env=environment(TERM="dumb", **env))
        os.close(inside)

    def wait(self, words: str, deadline_s: float = 60) -> str:
        """Read until the terminal shows ``words``; what came before is forgotten."""
        end = time.monotonic() + deadline_s
        while words not in self.text:
            assert time.monotonic() < end, f"no {words!r} in {self.text!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += self._read()
        seen, _, self.text = self.text.partition(words)
        return seen + words

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def interrupt(self, words: str) -> None:
        """Type Ctrl-C until the terminal shows ``words``: Python's input misses one just before it begins to wait."""
        seen = self.text
        for _ in range(60):
            self.type("\x03")
            if select.select([self.fd], [], [], 1.0)[0] or words in self.text:
                self.wait(words)
                return
        raise AssertionError(f"no {words!r} in {seen + self.text!r}")

    def end(self) -> str:
        """The rest of what it shows; its process must have exit code 0."""
        while piece := self._read():
            self.text += piece
        os.close(self.fd)
        assert self._process.wait(30) == 0, self.text
        return self.text

    def _read(self) -> str:
        try:
            return os.read(self.fd, 1 << 16).decode(errors="replace")
        except OSError:  # the other side has closed
            return ""
