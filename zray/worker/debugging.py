"""The debugger of a worker: what ``breakpoint()`` and errors of user code do here.

Without ``breakpoint()`` and post-mortems it costs nothing: the modules of the debugger load at the first stop.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from zray import debugging
from zray.base.ids import node_of
from zray.debugging import places
from zray.worker.run.invoke import DependencyFailed

if TYPE_CHECKING:
    from zray.debugging.places import Stop
    from zray.debugging.session import Debugging
    from zray.worker.execution import Execution

IGNORED = "ignored"
_OFF = ("0", "false", "off")


class WorkerDebugger:
    """Stops of the tasks of one worker."""

    def __init__(self, executor: Execution):
        self._executor = executor
        self._debugging: Debugging | None = None
        self.kind = ""  # of breakpoint(): "" for pdb
        self.post_mortem_s = 0.0  # a task that raises waits so long

    def install(self) -> None:
        """Make ``breakpoint()`` wait for a terminal."""
        sys.breakpointhook = self.breakpoint
        debugging.stop_at = self.stop_at

    def breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        """The hook of ``breakpoint()``; what PYTHONBREAKPOINT names comes first, as in any Python."""
        if "PYTHONBREAKPOINT" in os.environ:
            return sys.__breakpointhook__(*args, **kwargs)
        self.stop_at(sys._getframe(1), "")
        return None

    def stop_at(self, frame: FrameType, kind: str) -> None:
        """Wait for a debugger, and stop at the next line of ``frame``."""
        kind = kind or self.kind
        if kind == IGNORED:
            return
        if self._executor.forked:  # it has the threads and sockets of no worker
            raise RuntimeError("breakpoint() in a process that a task has forked: zray attaches to tasks only")
        if kind == places.DEBUGPY:
            self._loaded().stop_for_editor(frame)
        else:
            self._loaded().stop_at(frame)

    def take_on(self, of_job: Mapping[str, str], env: Mapping[str, str], wait_s: float) -> None:
        """The variables of the driver, and over them those of the environment of this worker's tasks."""
        chosen = _variable("DEBUG", of_job, env).lower()
        self.kind = IGNORED if chosen in _OFF else places.DEBUGPY if chosen in ("1", "debugpy") else ""
        self.post_mortem_s = 0.0 if _variable("DEBUG_POST_MORTEM", of_job, env).lower() in ("", *_OFF) else wait_s

    def after(self, error: BaseException, task: list[Any], name: str, interrupts: Any) -> BaseException:
        """Wait for a terminal after an error; returns the error that the task fails with."""
        if not isinstance(error, Exception) or isinstance(error, DependencyFailed):
            return error
        interrupts.current = task  # a cancellation ends the wait
        try:
            self._loaded().after(error, name, self.post_mortem_s)
        except KeyboardInterrupt as interrupt:
            return interrupt
        finally:
            interrupts.current = None
        return error

    def _loaded(self) -> Debugging:
        if self._debugging is None:
            from zray.debugging.session import Debugging

            self._debugging = Debugging(self._executor.rt.session_dir, self._facts, self._paused)
        return self._debugging

    def _facts(self) -> dict[str, Any]:
        rt = self._executor.rt
        context = rt.context
        return {"name": context.task_name, "task": context.task.hex(), "actor": context.actor.hex(),
                "worker": rt.incarnation.hex(), "node": node_of(rt.incarnation).hex()}

    def _paused(self, stop: Stop, whether: bool) -> None:
        executor = self._executor
        task = executor.rt.context.task
        with executor.loop.lock:
            if whether:
                executor.rt.paused[task] = stop.id
            else:
                executor.rt.paused.pop(task, None)


def _variable(name: str, of_job: Mapping[str, str], env: Mapping[str, str]) -> str:
    """The value of ZRAY_<name> or RAY_<name>; '' where neither is set."""
    return next((variables[full] for variables in (env, of_job) for full in (f"ZRAY_{name}", f"RAY_{name}")
                 if full in variables), "")
