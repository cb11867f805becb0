"""Why something waits, in words: for warnings, time-out errors and ``zray.explain``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zray.causes import Cause
from zray.core.groups import GroupWait
from zray.ids import return_id
from zray.owner.maps import MapBatch

if TYPE_CHECKING:
    from zray.core.runtime import Runtime

EXPLAINED_MAX = 3  # objects that a message explains one by one
ASKED_MAX = 3  # other processes that are asked for one message


def explain_record(runtime: Runtime, record: Any, depth: int = 0) -> tuple[Cause, dict[str, Any]]:
    """Why a record is pending (under the lock)."""
    if record.value is not None:
        return Cause.READY, {}
    task = record.task
    if record.oid in runtime.adoption.orphans:
        return Cause.ADOPTION, {"owner": record.owner.hex()}
    if task is None:
        return Cause.OWNER, {"owner": record.owner.hex(), "ask": (record.owner, record.oid)} if record.owner else {}
    if type(task) is GroupWait:
        return task.why()
    if type(task) is MapBatch:
        return Cause.RESOURCES_BUSY, {"name": task.fn.name, "done": task.count - task.remaining, "count": task.count}
    cause, about = (runtime.submitter if task.key is not None else runtime.calls).explain(task)
    if "missing" in about and depth < 4:
        for oid in about.pop("missing")[:EXPLAINED_MAX]:
            inner = runtime.refs.owned.get(oid) or runtime.refs.borrowed.get(oid)
            if inner is not None:
                about.setdefault("because", []).append((oid.hex(), *explain_record(runtime, inner, depth + 1)))
    return cause, about


def sentence(oid: bytes, cause: Cause, about: dict[str, Any], indent: str = "") -> str:
    """The cause of one wait, in words."""
    name = about.get("name")
    what = f"{name}()" if name else about.get("what", "object")
    says = about.get("says", "")
    if cause is Cause.OWNER and says:
        return f"{indent}ObjectRef({oid.hex()}), whose owner says:\n" + _indented(says, indent + "  ")
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
    if says:
        text += "\n" + _indented(says, indent + "  ")
    for inner_oid, inner_cause, inner_about in about.get("because", ()):
        text += "\n" + sentence(bytes.fromhex(inner_oid), inner_cause, inner_about, indent + "  ")
    return text


def _indented(text: str, indent: str) -> str:
    return "\n".join(indent + line for line in text.split("\n"))


def explain_records(runtime: Runtime, records: Iterable[Any], budget_s: float = 0.0) -> str:
    """Sentences for the first few records that are pending.

    With a budget (not under the lock then), workers that run a task and owners elsewhere are asked for what they know:
    they answer within a millisecond, or not at all while C code holds their GIL.
    """
    found: list[tuple[bytes, Cause, dict[str, Any]]] = []
    more = 0
    with runtime.loop.lock:
        for record in records:
            if record.value is not None:
                continue
            if len(found) < EXPLAINED_MAX:
                found.append((record.oid, *explain_record(runtime, record)))
            else:
                more += 1
    if budget_s:
        _ask(runtime, [about for _, _, about in found], time.monotonic() + budget_s)
    lines = [sentence(*each) for each in found]
    if more:
        lines.append(f"and {more} more")
    return "\n".join(lines)


def _ask(runtime: Runtime, abouts: list[dict[str, Any]], deadline: float) -> None:
    """Put into ``says`` what other processes know."""
    asked = 0
    while abouts and asked < ASKED_MAX:
        about = abouts.pop(0)
        abouts += [inner for _, _, inner in about.get("because", ())]
        place = about.pop("ask", None)
        if place is not None:
            asked += 1
            peer, what = place
            about["says"] = runtime.ask_why(peer, what, deadline)


def explain_stream(runtime: Runtime, stream: Any, budget_s: float = 0.0) -> str:
    """Why a generator has no next item, or why it makes none."""
    name = f"ObjectRefGenerator of {stream.task.fn.name}()"
    if stream.ended:
        return f"{name}: {Cause.READY.text}"
    ahead = stream.received - stream.consumed
    if 0 < stream.backpressure <= ahead:
        return f"{name}: {Cause.BACKPRESSURE.text} ({ahead} items ahead of it)"
    if stream.ready:
        return f"{name}: {Cause.READY.text} ({len(stream.ready)} items)"
    return explain_records(runtime, [StreamRecord(stream)], budget_s)


class StreamRecord:
    """A generator's next item, as explain_records wants a record."""

    __slots__ = ("oid", "value", "task", "owner")

    def __init__(self, stream: Any):
        self.oid = return_id(stream.task.tid, stream.received + 1)
        self.value = None
        self.task = stream.task
        self.owner = None
