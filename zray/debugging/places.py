"""Where tasks wait for a debugger: a record and a socket for each, in the folder ``debug`` of the session.

    debug/<id>.json     0600: what waits, and the process; it lives as long as the stop
    debug/<id>.sock     0600: where a terminal attaches; it exists only while no terminal is attached

The session's folder has mode 0700, so no other user reaches either.  A record whose process has ended counts for
nothing; its node removes it, or the next reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields
from typing import Any

from zray.base.os_linux import process_start, write_private

STOPS_FOLDER = "debug"
ID_BYTES = 3  # six digits to type; an id that is taken is drawn again

BREAKPOINT, POST_MORTEM, DEBUGPY = "breakpoint", "post-mortem", "debugpy"


@dataclass(slots=True)
class Stop:
    """A task that waits for a debugger, or is in one; ``until_s`` and ``since_s`` are seconds since 1970."""

    id: str
    kind: str  # BREAKPOINT, POST_MORTEM or DEBUGPY
    name: str  # of the task or call
    task: str = ""
    actor: str = ""
    file: str = ""
    line: int = 0
    function: str = ""
    error: str = ""  # of a post-mortem: its type and text
    pid: int = 0
    start: int = 0  # of the process, so that a number that is used again is not taken for it
    worker: str = ""
    node: str = ""
    host: str = ""
    since_s: float = 0.0
    until_s: float = 0.0  # 0: without a limit
    attached: int = 0  # the process id of the terminal; 0: none
    port: int = 0  # where debugpy listens

    def is_alive(self) -> bool:
        return self.start != 0 and process_start(self.pid) == self.start

    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "an unknown place"


def new_id(session_dir: str) -> str:
    """An id that no stop of this session has."""
    while True:
        found = secrets.token_hex(ID_BYTES)
        if not os.path.exists(record_path(session_dir, found)):
            return found


def record_path(session_dir: str, stop: str) -> str:
    return os.path.join(session_dir, STOPS_FOLDER, f"{stop}.json")


def socket_path(session_dir: str, stop: str) -> str:
    return os.path.join(session_dir, STOPS_FOLDER, f"{stop}.sock")


def make_folder(session_dir: str) -> None:
    os.makedirs(os.path.join(session_dir, STOPS_FOLDER), mode=0o700, exist_ok=True)


def write(session_dir: str, stop: Stop) -> None:
    """Write or replace the record, in one step."""
    make_folder(session_dir)
    write_private(record_path(session_dir, stop.id), json.dumps(asdict(stop)))


def remove(session_dir: str, stop: str) -> None:
    for path in (record_path(session_dir, stop), socket_path(session_dir, stop)):
        with contextlib.suppress(OSError):
            os.unlink(path)


def stops(session_dir: str) -> list[Stop]:
    """The stops of this node's living processes, the first one first; removes those of processes that have ended."""
    found = []
    for name in _names(session_dir):
        stop = _read(os.path.join(session_dir, STOPS_FOLDER, name))
        if stop is not None and stop.is_alive():
            found.append(stop)
        elif stop is not None:
            remove(session_dir, stop.id)
    return sorted(found, key=lambda stop: (stop.since_s, stop.id))


def rows(session_dir: str) -> list[dict[str, Any]]:
    """The same as maps."""
    return [asdict(stop) for stop in stops(session_dir)]


def of_row(row: dict[str, Any]) -> Stop:
    """TypeError for what no node of this version answers."""
    known = {field.name for field in fields(Stop)}
    return Stop(**{name: value for name, value in row.items() if name in known})


def forget_process(session_dir: str, worker: str) -> None:
    """Remove the stops of a worker (the hex of its incarnation) that has ended."""
    for name in _names(session_dir):
        stop = _read(os.path.join(session_dir, STOPS_FOLDER, name))
        if stop is not None and stop.worker == worker:
            remove(session_dir, stop.id)


def _names(session_dir: str) -> list[str]:
    try:
        return [name for name in os.listdir(os.path.join(session_dir, STOPS_FOLDER)) if name.endswith(".json")]
    except OSError:
        return []


def _read(path: str) -> Stop | None:
    """The record; None for one that is gone, half written, or of another version."""
    try:
        with open(path, encoding="utf-8") as file:
            return of_row(json.load(file))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
