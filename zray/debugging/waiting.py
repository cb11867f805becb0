"""A stop of a task: it waits for a terminal, talks to it, and waits again when the terminal leaves.

    WAITING     the socket listens; the thread of the task waits in :meth:`Desk.wait`
    ATTACHED    a terminal is connected; the socket is gone, so no second one attaches
    ENDED       record and socket are removed

    WAITING -> ATTACHED   a process of the same user connects
    ATTACHED -> WAITING   the terminal leaves, or its process ends, and the debugger asks it for a line
    any -> ENDED          the debugger leaves the task, the time limit, an interrupt of the task
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable

from zray.base.os_linux import readable
from zray.debugging import places
from zray.debugging.places import Stop
from zray.debugging.wire import DebugLine, Disconnected, peer_of

Words = Callable[[str, str, int, int], list[str]]  # completions of (text, line, begin, end)


class TimeLimit(Exception):
    """No terminal has attached in time."""


class Desk:
    """A text stream for pdb, whose other end is the terminal; all methods run on the thread of the task."""

    encoding = "utf-8"

    def __init__(self, session_dir: str, stop: Stop, announce: Callable[[Stop], None],
                 paused: Callable[[Stop, bool], None]):
        """``paused`` is called when the task begins and ends to wait, for a terminal or for its next line."""
        self.stop = stop
        self.when_left: Callable[[], None] = lambda: None  # called before it waits again, and
        self.when_attached: Callable[[], None] = lambda: None  # after that
        self.words: Words = lambda text, line, begin, end: []
        self._session_dir = session_dir
        self._announce = announce
        self._paused = paused
        self._wire: DebugLine | None = None
        self._unfinished = ""  # text after the last line end: it becomes the prompt

    # ------------------------------------------------------------ WAITING

    def wait(self) -> None:
        """Announce the stop and wait for a terminal; TimeLimit when its time is over."""
        self._paused(self.stop, True)
        try:
            self._wait()
        finally:
            self._paused(self.stop, False)

    def _wait(self) -> None:
        path = places.socket_path(self._session_dir, self.stop.id)
        with socket.socket(socket.AF_UNIX) as listener:
            self.stop.attached = 0
            places.make_folder(self._session_dir)
            try:
                listener.bind(path + ".new")
                os.chmod(path + ".new", 0o600)
                listener.listen(1)
                os.rename(path + ".new", path)  # now that it listens, others see it
                places.write(self._session_dir, self.stop)  # a reader of the record can attach
                self._announce(self.stop)
                self._wire = self._accepted(listener)
            finally:
                for name in (path, path + ".new"):
                    with contextlib.suppress(OSError):
                        os.unlink(name)
        places.write(self._session_dir, self.stop)

    def _accepted(self, listener: socket.socket) -> DebugLine:
        while True:
            left = self.stop.until_s - time.time() if self.stop.until_s else None
            if (left is not None and left <= 0) or not readable(listener.fileno(), left):
                raise TimeLimit
            connection, _ = listener.accept()
            pid, uid = peer_of(connection)
            if uid == os.getuid():
                self.stop.attached = pid
                return DebugLine(connection)
            connection.close()

    # ------------------------------------------------------------ ATTACHED: the stream of pdb

    def write(self, text: str) -> int:
        whole = self._unfinished + text
        ended, newline, self._unfinished = whole.rpartition("\n")
        if newline:
            self._send("text", ended + newline)
        return len(text)

    def flush(self) -> None:
        """Nothing waits but the text of the next prompt."""

    def readline(self) -> str:
        """A line of the terminal.  Without one, wait for the next."""
        while True:
            if self._wire is None:
                prompt, self._unfinished = self._unfinished, ""
                self.when_left()
                self.wait()
                self.when_attached()
                self._unfinished = prompt
            self._paused(self.stop, True)
            try:
                return self._line()
            except Disconnected:
                self._leave()
            finally:
                self._paused(self.stop, False)

    def _line(self) -> str:
        wire = self._wire
        assert wire is not None
        wire.send("ask", self._unfinished)
        while True:
            kind, *content = wire.receive()
            if kind == "line" and len(content) == 1:
                self._unfinished = ""
                return f"{content[0]}\n"
            if kind == "complete" and len(content) == 4:
                wire.send("found", self._found(*content))

    def _found(self, text: str, line: str, begin: int, end: int) -> list[str]:
        try:
            return self.words(text, line, begin, end)
        except Exception:  # a property of the user's object that raises
            return []

    def _send(self, *message: str) -> None:
        if self._wire is not None:
            try:
                self._wire.send(*message)
            except Disconnected:
                self._leave()

    def _leave(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    @property
    def is_attached(self) -> bool:
        return self._wire is not None

    # ------------------------------------------------------------ ENDED

    def end(self, text: str) -> None:
        """Tell the terminal that the debugger leaves the task, and remove the stop."""
        self._send("end", text)
        self._leave()
        places.remove(self._session_dir, self.stop.id)
