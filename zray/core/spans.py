"""Submissions, gets and collections of this process, for the timeline; only with the setting ``timeline_details``.

:func:`record` replaces the calls of the Runtime by ones that note their times, as zray.core.recording does.  Without
the setting nothing of this is loaded, and calls cost what they cost.  A call takes 2 us more, and a report
goes to the node twice a second.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

from zray.base import ids
from zray.core.runtime import Runtime
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.wire.messages import SpanReport

SPANS_EVERY_S = 0.5
SPANS_MAX = 10_000  # between two reports; further spans are counted
TASKS_SHOWN_MAX = 100  # of one get
GC_PAUSE_S_MIN = 0.001  # shorter collections are left out: there are hundreds a second

__tracebackhide__ = True  # pytest leaves these frames out of its reports


class Spans:
    """The spans of one process since its last report.  Any thread adds to them."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._rows: list[list[Any]] = []
        self._dropped = 0
        self._gc_began = 0.0

    def add(self, kind: str, name: str, start_s: float, tasks: list[bytes]) -> None:
        if len(self._rows) < SPANS_MAX:
            self._rows.append([kind, name, start_s, time.time(), tasks])
        else:
            self._dropped += 1

    def install(self) -> None:
        rt: Any = self._runtime
        rt.submit = self._around("submit", rt.submit, lambda fn, *_: fn.name, _tasks_of)
        rt.map = self._around("submit", rt.map, lambda fn, *_: fn.name, _tasks_of)
        rt.call = self._around("submit", rt.call, lambda handle, method, *_: method, _tasks_of)
        rt.create_actor = self._around("submit", rt.create_actor, lambda cls, *_: cls.name, _tasks_of)
        rt.get = self._around_get(rt.get, lambda refs, *_: refs)
        rt.get_one = self._around_get(rt.get_one, lambda ref, *_: (ref,))
        rt.get_map = self._around_get(rt.get_map, lambda refs, *_: refs)
        rt.wait = self._around_get(rt.wait, lambda refs, *_: refs)
        rt.flush_metrics, flush = self._flushing(rt.flush_metrics), rt.shutdown
        rt.shutdown = self._closing(flush)
        gc.callbacks.append(self._collects)
        with rt.loop.lock:
            rt.turns.later(SPANS_EVERY_S, self._report)

    def _around(self, kind: str, call: Callable[..., Any], name: Callable[..., str],
                tasks: Callable[[Any], list[bytes]]) -> Callable[..., Any]:
        def traced(*args: Any) -> Any:
            started = time.time()
            made = call(*args)
            self.add(kind, name(*args), started, tasks(made))
            return made

        return traced

    def _around_get(self, call: Callable[..., Any], refs_of: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*args: Any, **kwargs: Any) -> Any:
            started = time.time()
            try:
                return call(*args, **kwargs)
            finally:
                self.add("get", "get" if call.__name__ != "wait" else "wait", started, _made_by(refs_of(*args)))

        return traced

    def _collects(self, phase: str, info: dict[str, int]) -> None:
        """Python begins or ends a collection; this may interrupt any code, so it takes no lock."""
        now = time.time()
        if phase == "start":
            self._gc_began = now
        elif now - self._gc_began >= GC_PAUSE_S_MIN:
            self.add("gc", f"collects generation {info['generation']}", self._gc_began, [])

    def _report(self) -> None:
        if not self._runtime.process.closed:
            self.flush()
            self._runtime.turns.later(SPANS_EVERY_S, self._report)

    def flush(self) -> None:
        """Send what there is (under the lock)."""
        count = len(self._rows)
        if count or self._dropped:
            rows, dropped, self._dropped = self._rows[:count], self._dropped, 0
            del self._rows[:count]
            self._runtime.send(self._runtime.process.node, SpanReport(rows, dropped))

    def _flushing(self, call: Callable[[], None]) -> Callable[[], None]:
        def flush_metrics() -> None:
            call()
            if not self._runtime.process.closed:
                self.flush()

        return flush_metrics

    def _closing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def shutdown(*args: Any, **kwargs: Any) -> Any:
            if self._collects in gc.callbacks:
                gc.callbacks.remove(self._collects)
            return call(*args, **kwargs)

        return shutdown


def _tasks_of(made: Any) -> list[bytes]:
    """The tasks that a submission has made; of a map the first."""
    if isinstance(made, ObjectRefGenerator):
        return [made._stream.task.tid]
    if isinstance(made, MapRefs):
        return [made._batch.task_id(0)] if len(made) else []
    if isinstance(made, (ObjectRef, list)):
        return _made_by([made] if isinstance(made, ObjectRef) else made)
    return []


def _made_by(refs: Iterable[Any]) -> list[bytes]:
    """The tasks that make these objects."""
    if isinstance(refs, MapRefs):
        return _tasks_of(refs)
    found: dict[bytes, None] = {}
    for ref in refs:
        if isinstance(ref, ObjectRef):
            found[ref._oid[:ids.TASK_SIZE]] = None
        if len(found) >= TASKS_SHOWN_MAX:
            break
    return list(found)


def record(runtime: Runtime) -> None:
    """Note the times of this process's calls from now on."""
    Spans(runtime).install()
