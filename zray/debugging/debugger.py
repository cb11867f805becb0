"""Pdb at a stop of a task: the frames of zray are hidden, and the debugger leaves the task at its end.

A session begins at a breakpoint, and ends with ``continue`` where no further breakpoint of pdb is set, with ``quit``,
when the outermost frame of the user returns, or by an exception of zray itself, such as a cancellation.  Breakpoints
that were set in a session end with it: the next task may run in another process.
"""

from __future__ import annotations

import code
import contextlib
import pdb
import sys
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from zray.base import frames
from zray.debugging.waiting import Desk

# Modules in which ``step`` never stops.  A task's code is called from zray's, and that of an async actor from asyncio.
SKIPPED = ["zray", "zray.*", "asyncio", "asyncio.*"]
_RESUMABLE = 0x20 | 0x80 | 0x200  # flags of generators, coroutines and asynchronous generators
_YIELDS = ("YIELD_VALUE", "INSTRUMENTED_YIELD_VALUE", "RESUME", "SEND")


class Debugger(pdb.Pdb):
    """One session of pdb in one task, over a desk."""

    def __init__(self, desk: Desk, ended: Callable[[], None] = lambda: None):
        super().__init__(stdin=desk, stdout=desk, skip=SKIPPED, nosigint=True)  # type: ignore[arg-type]
        self.prompt = f"({desk.stop.id}) "
        self.desk = desk
        self.is_over = False
        self._ended = ended
        self._top: FrameType | None = None  # the outermost frame of the user
        self._is_post_mortem = False
        desk.words = self._words
        desk.when_left = self._left
        desk.when_attached = self._attached_again

    # ------------------------------------------------------------ begin

    def stop_in(self, frame: FrameType) -> None:
        """Stop at the next line of this frame."""
        self.reset()
        shown = frames.of_user(frame)
        for each in shown:
            each.f_trace = self.trace_dispatch
        self._top = self.botframe = shown[-1]  # type: ignore[assignment]
        self.set_step()
        sys.settrace(self.trace_dispatch)

    def look_at(self, error: BaseException) -> None:
        """Talk about a raised error, in the frames that it passed."""
        self._is_post_mortem = True
        self.reset()
        self.message(frames.format_error(error, error.__traceback__).rstrip("\n"))
        self.interaction(None, error.__traceback__)
        self.leave("The task fails with its error.")

    # ------------------------------------------------------------ end

    def leave(self, text: str) -> None:
        """End the session: the task runs on without tracing."""
        if self.is_over:
            return
        self.is_over = True
        if not self._is_post_mortem:
            self.clear_all_breaks()
            self.set_continue()
        self.desk.end(text)
        self._ended()

    def _cmdloop(self) -> None:
        """Read and run commands; an exception that is none of theirs, such as a cancellation, ends the session."""
        try:
            self.cmdloop()
        except BaseException:
            self.leave("The debugger was interrupted: the task was cancelled, or its process ends.")
            raise

    def dispatch_return(self, frame: FrameType, arg: Any) -> Any:
        found = super().dispatch_return(frame, arg)
        if frame is self._top and not _is_suspended(frame):
            self.leave(f"{frame.f_code.co_name}() has ended.")
            return None
        return found

    def do_continue(self, arg: str) -> bool | None:
        """Run on; the debugger leaves the task where no breakpoint is set."""
        found = super().do_continue(arg)
        if not self.breaks and not self._is_post_mortem:
            self.leave("The task runs on.")
        return found

    do_c = do_cont = do_continue

    def do_detach(self, arg: str) -> bool:
        """Clear all breakpoints, and run on without the debugger."""
        if not self._is_post_mortem:
            self.clear_all_breaks()
            self.set_continue()
            self.leave("The task runs on.")
        return True

    def do_quit(self, arg: str) -> bool | None:
        """End the task with bdb.BdbQuit; after an error, leave the debugger."""
        if not self._is_post_mortem:
            self.leave("The task ends with bdb.BdbQuit.")
        return super().do_quit(arg)

    do_q = do_exit = do_quit

    def do_run(self, arg: str) -> None:
        """A task cannot be started again from inside."""
        self.error("a task cannot be started again from its debugger: submit it again in the program")

    do_restart = do_run

    # ------------------------------------------------------------ what the user sees

    def get_stack(self, frame: FrameType | None, trace: TracebackType | None
                  ) -> tuple[list[tuple[FrameType, int]], int]:
        """Without the frames of zray, unless nothing else is there."""
        stack, at = super().get_stack(frame, trace)
        if frames.show_all():
            return stack, at
        shown = [entry for entry in stack if not frames.is_own_file(entry[0].f_code.co_filename)]
        if not shown:
            return stack, at
        place = next((index for index, entry in enumerate(shown) if entry[0] is stack[at][0]), len(shown) - 1)
        return shown, place

    def do_interact(self, arg: str) -> None:
        """A Python prompt with the names of this frame, in the terminal; Ctrl-D is `exit()` there."""
        names = {**self.curframe.f_globals, **self.curframe_locals}  # type: ignore[union-attr]

        def read(prompt: str) -> str:
            self.desk.write(prompt)
            line = self.desk.readline().rstrip("\n")
            if line.strip() in ("exit()", "quit()", "exit", "quit"):
                raise EOFError
            return line

        with contextlib.redirect_stdout(self.desk), contextlib.redirect_stderr(self.desk):  # type: ignore[type-var]
            code.interact("*interactive* (`exit` goes back to pdb)", read, names, exitmsg="")

    def _left(self) -> None:
        """The task waits again, now at this place."""
        frame, line = self.stack[self.curindex]
        stop = self.desk.stop
        stop.file, stop.line, stop.function = frame.f_code.co_filename, line, frame.f_code.co_name

    def _attached_again(self) -> None:
        """A terminal has attached in the middle of a session."""
        self.print_stack_entry(self.stack[self.curindex])

    def _words(self, text: str, line: str, begin: int, end: int) -> list[str]:
        """What the Tab key offers: commands at the beginning, else names of this frame."""
        if begin == 0:
            found: list[str] = list(self.completenames(text, line, begin, end))
        else:
            command = self.parseline(line)[0]
            complete = getattr(self, f"complete_{command}", None) or self.completedefault
            found = list(complete(text, line, begin, end) or ())
        return found or list(self._complete_expression(text, line, begin, end) or ())


def _is_suspended(frame: FrameType) -> bool:
    """Whether a frame that returns comes back later: a generator that yields, a coroutine that awaits."""
    if not frame.f_code.co_flags & _RESUMABLE:
        return False
    import dis

    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in _YIELDS


def last_place(error: BaseException) -> tuple[str, int, str]:
    """(file, line, function) of the user's last frame that an error passed."""
    found = [entry for entry in traceback.extract_tb(error.__traceback__) if not frames.is_own_file(entry.filename)]
    return (found[-1].filename, found[-1].lineno or 0, found[-1].name) if found else ("", 0, "")
