"""The terminal of ``zray debug``: prints what the debugger says, and reads its commands, with history and Tab."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from zray.debugging import places
from zray.debugging.places import Stop
from zray.debugging.wire import DebugLine, Disconnected, peer_of


class CannotAttach(RuntimeError):
    """Nothing waits there; the message is one sentence."""


def connect(session_dir: str, stop: Stop) -> DebugLine:
    """A connection with a stop of this machine; CannotAttach when it does not wait, or is of another user."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(places.socket_path(session_dir, stop.id))
    except OSError:
        connection.close()
        if stop.attached:
            raise CannotAttach(f"a terminal is attached to {stop.id} already (pid {stop.attached})") from None
        raise CannotAttach(f"{stop.id} does not wait any more") from None
    if peer_of(connection)[1] != os.getuid():
        connection.close()
        raise CannotAttach(f"the process behind {stop.id} belongs to another user")
    return DebugLine(connection)


class Terminal:
    """One attached terminal; :meth:`talk` returns when the debugger has left the task, or the user the debugger."""

    def __init__(self, wire: DebugLine, stop: str):
        self._wire = wire
        self._stop = stop
        self._words: list[str] = []

    def talk(self) -> None:
        """Serve the debugger until it leaves the task, or the user leaves."""
        readline = _readline()
        if readline is not None:
            readline.set_completer(self._complete)
        try:
            while self._serve(*self._wire.receive()):
                pass
        except Disconnected:
            print("The connection has ended: the process of the task has ended.")
        except KeyboardInterrupt:
            print(f"\nLeft it running; where its debugger stops again, it waits for: zray debug {self._stop}")
        finally:
            self._wire.close()
            if readline is not None:
                readline.set_completer(None)

    def _serve(self, kind: str, *content: Any) -> bool:
        """Do what the debugger asks; False at the end."""
        if kind == "text":
            sys.stdout.write(str(content[0]))
            sys.stdout.flush()
        elif kind == "ask":
            line = self._read(str(content[0]))
            if line is None:
                print(f"\nLeft it waiting; attach again with: zray debug {self._stop}")
                return False
            self._wire.send("line", line)
        elif kind == "end":
            print(content[0])
            return False
        return True

    def _read(self, prompt: str) -> str | None:
        """A line; None at Ctrl-D.  Ctrl-C drops the line, as at other prompts."""
        while True:
            try:
                return input(prompt)
            except EOFError:
                return None
            except KeyboardInterrupt:
                print("\n(`quit` ends the task, `continue` lets it run on, Ctrl-D leaves it waiting)")

    def _complete(self, text: str, state: int) -> str | None:
        readline = _readline()
        if state == 0 and readline is not None:
            self._words = []
            line, begin, end = readline.get_line_buffer(), readline.get_begidx(), readline.get_endidx()
            try:
                self._wire.send("complete", text, line, begin, end)
                kind, *found = self._wire.receive()
            except Disconnected:
                return None
            if kind == "found" and found:
                self._words = [str(word) for word in found[0]]
        return self._words[state] if state < len(self._words) else None


def _readline() -> Any:
    """The module of history and completion; None where this Python has none."""
    try:
        import readline
    except ImportError:
        return None
    readline.parse_and_bind("tab: complete")
    return readline
