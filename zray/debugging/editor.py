"""Stops for editors: a task listens for debugpy (extra ``zray[debug]``) on a port of loopback, and waits.

debugpy asks for no password: each user of this machine can connect to that port, and run code as this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FrameType
from typing import Any

from zray.base.addresses import LOOPBACK
from zray.debugging import places
from zray.debugging.places import Stop

_listening: dict[str, int] = {}  # "port": debugpy listens once a process


class NotInstalled(ImportError):
    """debugpy is missing."""


def stop_for_editor(frame: FrameType, session_dir: str, stop: Stop, announce: Callable[[Stop], None],
                    paused: Callable[[Stop, bool], None]) -> None:
    """Wait until an editor is connected; then stop in ``frame``."""
    debugpy = _debugpy()
    if not debugpy.is_client_connected():
        stop.port = _port(debugpy)
        places.write(session_dir, stop)
        paused(stop, True)
        try:
            announce(stop)
            debugpy.wait_for_client()
        finally:
            paused(stop, False)
            places.remove(session_dir, stop.id)
    import pydevd  # debugpy puts its own on the path

    pydevd.settrace(suspend=True, trace_only_current_thread=True, patch_multiprocessing=False, stop_at_frame=frame)


def _debugpy() -> Any:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # it warns of modules that no user debugs
    try:
        import debugpy
    except ImportError:
        raise NotInstalled("ZRAY_DEBUG (or RAY_DEBUG) asks for debugpy, which is not installed: "
                           "pip install 'zray[debug]', or set it to pdb") from None
    return debugpy


def _port(debugpy: Any) -> int:
    if "port" not in _listening:
        debugpy.configure(subProcess=False)
        _listening["port"] = debugpy.listen((LOOPBACK, 0))[1]
    return _listening["port"]
