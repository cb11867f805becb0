"""What a session keeps of its rows after its end: one file in its folder, beside its logs.

    magic, zlib( msgpack {"about", "answers": {view: answer}, "events": TaskEventLog.dump(),
                         "spans": SpanLog.dump(), "store", "last": {question: answer of the last driver}} )

The answers are those of zray.node.views, as the node gave them last, so zray.state.kept makes the same rows of them as
of a running cluster.  The file is written at the planned end.  A node that has something new also refreshes a smaller
one now and then, since a killed node can write nothing: at most every ``session_state_s``, and so seldom that it takes
a thousandth of a CPU.  Values of environment variables and passwords in addresses are left out.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from zray.base.config import Config
from zray.base.ports import Ports
from zray.base.version import __version__
from zray.environments.setup import mask
from zray.node.jobs.spans import SpanLog
from zray.node.jobs.task_events import TaskEventLog
from zray.node.running.session import STATE
from zray.node.views import shown

STATE_MAGIC = b"zray state 1\n"
STATE_FORMAT = 1
REFRESH_BYTES_MAX = 1 << 20  # packing them takes 5 ms: the longest time for which a refresh holds up the node
REFRESH_COST = 0.001  # of a CPU
FIRST_REFRESH_S = 1.0  # after the first news; a program that is killed at once leaves only its logs
REFRESH_ROWS_MAX = 500
END_ROWS_MAX = 10_000
OBJECTS_KEPT_MAX = 1000  # the largest ones
OBJECTS_SEEN_MAX = 20_000  # of which they are chosen: to look at more would hold up the node for over 50 ms
EVENTS_PART = 2  # task events have one part in so many of the bytes; more when the other rows leave it to them
SPANS_PART = 16  # and spans beside them
HIDDEN = "****"
# The views that are kept, each with its arguments.
KEPT_VIEWS: dict[str, dict[str, Any]] = {
    "nodes": {}, "jobs": {}, "actors": {}, "workers": {"ended": True}, "placement-groups": {}, "runtime-envs": {},
    "leases": {}, "stats": {}, "gcs": {}, "resources": {}, "available": {"local": True}}


class StatePorts(Ports):
    """What is asked for the rows."""

    answer: Callable[[str, dict[str, Any]], dict[str, Any]]  # of a view
    events: TaskEventLog
    spans: SpanLog
    # What the driver that left last knew: rows of its "tasks" and "objects", and their total.
    last_rows: Callable[[], dict[str, tuple[list[dict[str, Any]], int]]]
    store_usage: Callable[[], dict[str, Any]]
    store_objects: Callable[[int], list[dict[str, Any]]]  # at most so many
    has_jobs: Callable[[], bool]  # that run
    news: Callable[[], Any]  # differs when there is something new to write
    about: Callable[[], dict[str, Any]]  # the session, for its header
    note: Callable[[str], None]


class KeptState:
    """Writes the file of one node."""

    def __init__(self, session_dir: str, config: Config, ports: StatePorts):
        self.path = os.path.join(session_dir, STATE)
        self._bytes_max = config.session_state_bytes_max
        self._every_s = config.session_state_s if self._bytes_max else 0.0
        self._ports = ports
        self._written: Any = None  # the news of the last file
        self._due: float | None = None
        self._pause_s = min(FIRST_REFRESH_S, self._every_s)
        self._store: dict[str, Any] = {}  # what was in the store when the last job ended
        self._settings = {name: value for name, value in config.as_dict().items()
                          if value != Config.__dataclass_fields__[name].default}
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # of an earlier session in this folder

    # ------------------------------------------------------------ a part with a timer

    def next_deadline(self) -> float | None:
        if self._due is None and self._every_s and self._ports.news() != self._written:
            self._due = time.monotonic() + self._pause_s
        return self._due

    def tick(self, now: float) -> None:
        if self._due is not None and self._due <= now:
            self._due = None
            is_first, began = self._written is None, time.thread_time()  # not the time of day: the machine may be busy
            self._write(min(REFRESH_BYTES_MAX, self._bytes_max), REFRESH_ROWS_MAX, "")
            took = 0.0 if is_first else time.thread_time() - began  # the first one imports, and says little of the next
            self._pause_s = max(self._every_s, took / REFRESH_COST)

    def job_over(self) -> None:
        """A driver leaves: what its job has in the store is dropped next, and it is what memory was used for."""
        if self._bytes_max:
            self._store = self._store_now()

    def finish(self, why: str) -> None:
        """The planned end."""
        if self._bytes_max:
            self._write(self._bytes_max, END_ROWS_MAX, why)

    # ------------------------------------------------------------ the file

    def _write(self, bytes_max: int, rows_max: int, ended: str) -> None:
        """A disk that is full, or a bug in a view, must not end the node, nor keep it from ending."""
        temporary = f"{self.path}.{os.getpid()}"
        try:
            self._written = self._ports.news()
            data = self._packed(bytes_max, rows_max, ended)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, self.path)
        except Exception as error:
            self._ports.note(f"the state of the session could not be kept: {error!r}")
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _packed(self, bytes_max: int, rows_max: int, ended: str) -> bytes:
        import zlib

        spans = self._ports.spans.dump(bytes_max // SPANS_PART)
        answers, left = {}, bytes_max - bytes_max // EVENTS_PART - len(wire(spans))
        for view, args in KEPT_VIEWS.items():
            answer = without_secrets(view, self._ports.answer(view, {**args, "limit": rows_max}))
            answers[view] = fitting(view, answer, left)
            left -= len(wire(answers[view]))
        store = self._store if ended and self._store and not self._ports.has_jobs() else self._store_now()
        about = {**self._ports.about(), "format": STATE_FORMAT, "zray": __version__, "python": sys.version.split()[0],
                 "pid": os.getpid(), "written_s": time.time(), "ended": ended, "settings": self._settings}
        store = fitting("objects", store, left)
        left -= len(wire(store))
        last = {}
        for what, (rows, total) in self._ports.last_rows().items():
            last[what] = fitting(what, without_secrets(what, shown({what: rows, "total": total})), left)
            left -= len(wire(last[what]))
        found = {"about": about, "answers": answers, "store": store, "last": last, "spans": spans,
                 "events": self._ports.events.dump(bytes_max // EVENTS_PART + max(0, left))}
        return STATE_MAGIC + zlib.compress(wire(found), 1)

    def _store_now(self) -> dict[str, Any]:
        objects = self._ports.store_objects(OBJECTS_SEEN_MAX)
        largest = sorted(objects, key=lambda row: -row["nbytes"])[:OBJECTS_KEPT_MAX]
        return {**self._ports.store_usage(), "total": len(objects), "objects": largest}


def wire(value: Any) -> bytes:
    import msgpack

    return msgpack.packb(value, unicode_errors="surrogatepass")  # type: ignore[no-any-return]


def fitting(view: str, answer: dict[str, Any], bytes_max: int) -> dict[str, Any]:
    """The answer with as many of its rows as fit; its ``total`` still counts all."""
    rows = answer.get(view)
    while isinstance(rows, list) and rows and len(wire(answer)) > bytes_max:
        rows = rows[:len(rows) // 2]
        answer = {**answer, view: rows}
    return answer


def without_secrets(view: str, value: Any) -> Any:
    """The answer of a view without values of environment variables and passwords in addresses."""
    if isinstance(value, dict):
        return {key: dict.fromkeys(item, HIDDEN) if isinstance(item, dict) and (
                    key == "env_vars" or key == "env" and view == "workers") else without_secrets(view, item)
                for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(view, item) for item in value]
    return mask(value) if isinstance(value, str) and "@" in value else value
