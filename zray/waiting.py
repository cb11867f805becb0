"""Waiting in get and wait: countdowns over records, groups that survive from one ``wait`` to the next, and why.

A WaitGroup is registered once at its objects and is handed on inside the list of the not-ready ones, so draining n
references one by one costs O(1) a completion and not O(n).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zray.causes import Cause
from zray.refs import ObjectRef, RefList, dropped
from zray.transport.loop import Waiter

if TYPE_CHECKING:
    from zray.runtime import Runtime

EXPLAINED_MAX = 3  # objects that a message explains one by one


class Countdown(Waiter):
    """Done when it was called ``need`` times; it is the waiter it leaves at each record."""

    __slots__ = ("loop",)

    def __init__(self, loop: Any, need: int):
        super().__init__(need)
        self.loop = loop

    def __call__(self, record: Any) -> None:
        self.loop.notify_one(self)


class Arrivals:
    """What a WaitGroup leaves at its records: collects those that became ready, wakes the waiter there is."""

    __slots__ = ("ready", "waiter")

    def __init__(self) -> None:
        self.ready: deque[bytes] = deque()
        self.waiter: Countdown | None = None

    def __call__(self, record: Any) -> None:
        self.ready.append(record.oid)
        if self.waiter is not None:
            self.waiter(record)


class WaitGroup:
    """References that somebody drains with ``wait``; ``pending`` keeps their order."""

    __slots__ = ("pending", "arrivals", "__weakref__")

    def __init__(self, refs: Iterable[ObjectRef]):
        self.pending = {ref._oid: ref for ref in refs}
        self.arrivals = Arrivals()

    def __del__(self) -> None:
        if self.pending:
            dropped.append(Abandoned(self.arrivals, [ref._record for ref in self.pending.values()]))


class Abandoned:
    """A WaitGroup nobody can reach any more: its callbacks are to be taken back."""

    __slots__ = ("arrivals", "records")

    def __init__(self, arrivals: Arrivals, records: list[Any]):
        self.arrivals = arrivals
        self.records = records


def explain_record(runtime: Runtime, record: Any, depth: int = 0) -> tuple[Cause, dict[str, Any]]:
    """Why a record is pending (under the lock)."""
    if record.value is not None:
        return Cause.READY, {}
    task = record.task
    if task is None:
        return Cause.OWNER, {"owner": record.owner.hex() if record.owner else ""}
    if hasattr(task, "remaining"):  # a map
        return Cause.RESOURCES_BUSY, {"name": task.fn.name, "done": task.count - task.remaining, "count": task.count}
    cause, about = (runtime.submitter if task.key is not None else runtime.calls).explain(task)
    if cause is Cause.DEPENDENCY and depth < 4:
        for oid in about.pop("missing", [])[:EXPLAINED_MAX]:
            inner = runtime.refs.owned.get(oid) or runtime.refs.borrowed.get(oid)
            if inner is not None:
                about.setdefault("because", []).append((oid.hex(), *explain_record(runtime, inner, depth + 1)))
    return cause, about


def sentence(oid: bytes, cause: Cause, about: dict[str, Any], indent: str = "") -> str:
    """The cause of one wait, in words."""
    name = about.get("name")
    what = f"{name}()" if name else "object"
    text = f"{indent}ObjectRef({oid.hex()}) of {what}: {cause.text}"
    facts = []
    if about.get("detail"):
        facts.append(str(about["detail"]))
    elif about.get("demand"):
        facts.append("it asks for " + ", ".join(f"{k} {v / 10_000:g}" for k, v in about["demand"].items()))
    if about.get("pid"):
        facts.append(f"pid {about['pid']}")
    if about.get("ahead"):
        facts.append(f"{about['ahead']} ahead of it")
    if about.get("attempt"):
        facts.append(f"attempt {about['attempt'] + 1}")
    if facts:
        text += f" ({'; '.join(facts)})"
    for inner_oid, inner_cause, inner_about in about.get("because", ()):
        text += "\n" + sentence(bytes.fromhex(inner_oid), inner_cause, inner_about, indent + "  ")
    return text


def explain_records(runtime: Runtime, records: Iterable[Any]) -> str:
    """Sentences for the first few records that are pending."""
    lines = []
    more = 0
    with runtime.loop.lock:
        for record in records:
            if record.value is not None:
                continue
            if len(lines) < EXPLAINED_MAX:
                lines.append(sentence(record.oid, *explain_record(runtime, record)))
            else:
                more += 1
    if more:
        lines.append(f"and {more} more")
    return "\n".join(lines)
