"""The runtime of this process, if it has one: the cluster's (zray.core.runtime), or that of local mode.

Handles ask :func:`connected` at each call; the first call in a process without a runtime starts one, as in Ray.
Both kinds of runtime install themselves where references look for theirs (zray.handles.refs).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from zray.handles.refs import _hooks, wake

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2  # kinds of runtimes, by Ray's numbers


def start_by(start: Callable[[], object]) -> None:
    """Set the function that starts a session and connects to it: ``init`` of the layer above."""
    global _start
    _start = start


def _start() -> object:
    raise RuntimeError("zray is not initialised: call zray.init()")


def current() -> Any:
    """The runtime of this process or None."""
    return _hooks["runtime"]


def has_ended(runtime: Any) -> bool:
    """Whether the session of ``runtime`` is over here, or ends now: new work would go into another one."""
    return runtime.closed or current() is not runtime


def _forget_in_child() -> None:
    """A forked child shares the sockets of its parent and must not touch them: it starts without a runtime."""
    _hooks["runtime"] = None
    wake.armed = False


os.register_at_fork(after_in_child=_forget_in_child)


def connected() -> Any:
    """The runtime of this process; starts a node and connects to it where there is none."""
    runtime = _hooks["runtime"]
    if runtime is None:
        _start()
        runtime = _hooks["runtime"]
    return runtime
