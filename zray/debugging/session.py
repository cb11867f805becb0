"""Stops of the tasks of this process: at ``breakpoint()``, and after errors."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from zray.base.os_linux import process_start
from zray.debugging import places
from zray.debugging.debugger import Debugger, last_place
from zray.debugging.places import Stop
from zray.debugging.waiting import Desk, TimeLimit

ERROR_CHARS_MAX = 500  # of the error that a listing shows

_on_thread = threading.local()  # ``debugger``: the last session of this thread


class Debugging:
    """The debugger of one worker process.

    ``facts()`` gives what the process knows of the task on this thread: fields of Stop.  ``paused(stop, whether)`` is
    called when that task begins and ends to wait, so that explanations of waits say so.
    """

    def __init__(self, session_dir: str, facts: Callable[[], dict[str, Any]], paused: Callable[[Stop, bool], None]):
        self._session_dir = session_dir
        self._facts = facts
        self._paused = paused

    def stop_at(self, frame: FrameType) -> None:
        """Wait for a terminal; then stop at the next line of this frame."""
        debugger: Debugger | None = getattr(_on_thread, "debugger", None)
        if debugger is not None and not debugger.is_over:  # in the middle of a session
            debugger.stop_in(frame)
            return
        desk = Desk(self._session_dir, self._stop(places.BREAKPOINT, frame.f_code.co_filename, frame.f_lineno,
                                                  frame.f_code.co_name), announce, self._paused)
        try:
            desk.wait()
        except BaseException:
            desk.end("")
            raise
        desk.write(f"{desk.stop.name}(), pid {desk.stop.pid}: `continue` lets it run on, `quit` ends it, Ctrl-D leaves "
                   "it waiting\n")
        _on_thread.debugger = debugger = Debugger(desk)
        debugger.stop_in(frame)

    def stop_for_editor(self, frame: FrameType) -> None:
        """Wait for an editor with debugpy, and stop in this frame."""
        from zray.debugging.editor import stop_for_editor

        stop = self._stop(places.DEBUGPY, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        stop_for_editor(frame, self._session_dir, stop, announce, self._paused)

    def after(self, error: BaseException, name: str, wait_s: float) -> None:
        """Wait for a terminal at the place where an error was raised, for ``wait_s`` at most."""
        stop = self._stop(places.POST_MORTEM, *last_place(error))
        stop.name = name or stop.name
        stop.error = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
        stop.until_s = stop.since_s + wait_s
        desk = Desk(self._session_dir, stop, announce, self._paused)
        try:
            desk.wait()
            stop.until_s = 0.0
            Debugger(desk).look_at(error)
        except TimeLimit:
            print(f"zray: no debugger came to {stop.name}() within {wait_s:g} s, so it fails with its error",
                  file=sys.stderr)
        finally:
            desk.end("The debugger was interrupted: the task was cancelled, or its process ends.")

    def _stop(self, kind: str, file: str, line: int, function: str) -> Stop:
        facts = self._facts()
        pid = os.getpid()
        return Stop(places.new_id(self._session_dir), kind, facts.pop("name", "") or function, file=file, line=line,
                    function=function, pid=pid, start=process_start(pid), host=socket.gethostname(),
                    since_s=time.time(), **facts)


def announce(stop: Stop) -> None:
    """Print where a task waits, and how to attach.  A worker's output goes to its driver."""
    if stop.kind == places.POST_MORTEM:
        limit = f" for {stop.until_s - stop.since_s:g} s" if stop.until_s else ""
        what = f"{stop.name}() has failed at {stop.where()} with {stop.error}, and waits{limit}"
    else:
        what = f"{stop.name}() waits at a breakpoint, {stop.where()}"
    how = f"an editor with debugpy to 127.0.0.1:{stop.port}" if stop.kind == places.DEBUGPY else \
        f"with: zray debug {stop.id}"
    print(f"zray: {what}; attach {how}", file=sys.stderr, flush=True)
