"""Where user code made references, tasks and actors, for ``call_site`` in the state API.

Only with the setting ``record_ref_creation_sites``: then ``record`` puts itself before the calls of user code of one
Runtime.  Without it nothing of this is loaded, and calls cost what they cost.  With it a call takes some 5 us more.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import zray.core
from zray.base.ids import RETURN_1, TASK_SIZE
from zray.core.runtime import Runtime
from zray.handles.refs import ObjectRef

FRAMES_MAX = 4  # as in Ray
ACTORS_MAX = 10_000  # actors whose site is kept, the latest
LOOK_MIN = 1024  # recorded objects before those that are gone are dropped
# Frames of zray itself are no user code.
_OWN = os.path.dirname(os.path.dirname(zray.core.__file__)) + os.sep


class CreationSites:
    """The sites of one process, by id: of objects that it owns, and of actors that it created."""

    def __init__(self, owned: dict[bytes, Any]):
        self._owned = owned
        self._lock = threading.Lock()
        self._objects: dict[bytes, str] = {}
        self._actors: dict[bytes, str] = {}  # oldest first
        self._look_at = LOOK_MIN

    def note(self, made: Any, how: str) -> None:
        """User code has just made a reference, several, or a handle."""
        site = f"{how} {stack()}"
        with self._lock:
            actor = getattr(made, "_actor", None)
            if actor is not None:
                self._actors[actor] = site
                if len(self._actors) > ACTORS_MAX:
                    del self._actors[next(iter(self._actors))]
            for ref in made if isinstance(made, list) else (made,):
                if isinstance(ref, ObjectRef):
                    self._objects[ref._oid] = site
            if len(self._objects) > self._look_at:
                self._objects = {oid: kept for oid, kept in self._objects.items() if oid in self._owned}
                self._look_at = max(LOOK_MIN, 2 * len(self._objects))

    def of(self, oid: bytes) -> str:
        return self._objects.get(oid, "")

    def add_to(self, what: str, rows: list[dict[str, Any]], limit: int, of: bytes) -> None:
        """Add the sites to rows of the state API; for what has no row here, rows with the site alone, which count 0."""
        with self._lock:
            objects, actors = dict(self._objects), dict(self._actors)
        if what == "objects":
            for row in rows:
                row["call_site"] = objects.get(row["object_id"], "")
            return
        if what == "actors":
            found: Iterable[tuple[bytes, str]] = actors.items()
            name = "actor"
        else:
            found = ((oid[:TASK_SIZE], site) for oid, site in objects.items() if oid[TASK_SIZE:] == RETURN_1)
            name = "task_id"
        room = max(0, limit - len(rows))
        rows += [{name: key, "call_site": site, "count": 0} for key, site in found if not of or key == of][:room]


def stack() -> str:
    """The innermost frames of user code: ``file:function:line``, joined by " | "."""
    frame: Any = sys._getframe(1)
    found: list[str] = []
    while frame is not None and len(found) < FRAMES_MAX:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN):
            found.append(f"{code.co_filename}:{code.co_name}:{frame.f_lineno}")
        elif found:
            break  # the frames that run the task
        frame = frame.f_back
    return " | ".join(found)


def record(runtime: Runtime) -> None:
    """Record the sites of all that this process makes from now on."""
    sites = runtime.machine.sites = CreationSites(runtime.machine.refs.owned)

    def noting(call: Callable[..., Any], how: str) -> Any:
        def noted(*args: Any) -> Any:
            made = call(*args)
            sites.note(made, how)
            return made

        return noted

    runtime.put = noting(runtime.put, "(put object)")  # type: ignore[method-assign]
    runtime.submit = noting(runtime.submit, "(task call)")  # type: ignore[method-assign]
    runtime.call = noting(runtime.call, "(actor call)")  # type: ignore[method-assign]
    runtime.create_actor = noting(runtime.create_actor, "(actor creation)")  # type: ignore[method-assign]
