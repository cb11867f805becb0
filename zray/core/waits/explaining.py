"""Explains in text why something waits: for warnings, time-out errors and ``zray.explain``.

A reason is ``[id, cause, about]``.  It has wire types, because processes send each other reasons.  ``id`` is of an
object (28 bytes) or of a task (24 bytes), ``about`` is a map:

    name what detail demand pid ahead attempt   facts of the sentence
    text says                                   text in place of the sentence; text below it
    because                                     reasons of this reason, further down the chain
    task actor leases queued                    for the rules of ``is_healthy`` and ``progress``
    ask ask_node                                [process, id, endpoint], or an actor's id: the process to ask (Asking)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from zray.base import ids
from zray.base.causes import Cause
from zray.base.named_tuples import NamedTuple
from zray.core.waits.why import EXPLAINED_MAX, Explained, Reason, explain_record

ASKED_MAX = 8  # questions to other processes for one message: a circle of three actors takes six

# Causes that the process that has the task knows better than the process that pushed it.
_REFINED = (Cause.RUNNING, Cause.PUSHED, Cause.ACTOR_HAS, Cause.ACTOR_BUSY)


class Reasons(NamedTuple):
    """The reasons of one wait: of the first few pending objects; ``more`` objects are pending."""

    found: list[Reason]
    more: int = 0

    def __str__(self) -> str:
        lines = [sentence(*each) for each in self.found]
        if self.more:
            lines.append(f"and {self.more} more")
        return "\n".join(lines)


def reasons_of(owner: Explained, lock: AbstractContextManager[Any], records: Iterable[Any]) -> Reasons:
    """The reasons of pending records, as far as this process knows them."""
    found: list[Reason] = []
    more = 0
    with lock:
        for record in records:
            if record.value is not None:
                continue
            if len(found) < EXPLAINED_MAX:
                found.append([record.oid, *explain_record(owner, record)])
            else:
                more += 1
    return Reasons(found, more)


def stream_state(stream: Any) -> str | None:
    """The state of a generator that needs no wait for its next item; None when the next item is pending."""
    name = f"ObjectRefGenerator of {stream.task.fn.name}()"
    if stream.ended:
        return f"{name}: {Cause.READY.text}"
    ahead = stream.received - stream.consumed
    if 0 < stream.backpressure <= ahead:
        return f"{name}: {Cause.BACKPRESSURE.text} ({ahead} items ahead of it)"
    if stream.ready:
        return f"{name}: {Cause.READY.text} ({len(stream.ready)} items)"
    return None


# ---------------------------------------------------------------- asking other processes


class ReasonSource(Protocol):
    """A Runtime, or the connection of a command."""

    def ask_why(self, peer: bytes, what: bytes, endpoint: str, deadline: float) -> tuple[str, list[Reason]]: ...

    def ask_of_actor(self, actor: bytes, deadline: float) -> int | None: ...


class Asking:
    """Asks the processes that know more: owners, workers that run or queue a task, the node.

    They answer within a millisecond, or not at all while C code holds their GIL.  A task that is found again below
    itself closes a circle: a deadlock.
    """

    def __init__(self, asker: ReasonSource, budget_s: float):
        self.asker = asker
        self.deadline = time.monotonic() + budget_s
        self.left = ASKED_MAX

    def follow(self, found: list[Reason], above: tuple[str, ...] = ()) -> None:
        """Replace reasons by more exact ones, in place (not under the lock)."""
        for reason in found:
            about = reason[2]
            task = about.get("task", "")
            if task and task in above:
                reason[1] = Cause.DEADLOCK
                reason[2] = {name: about[name] for name in ("name", "task") if name in about}
                continue
            self._ask(reason)
            self.follow(reason[2].get("because") or [], (*above, task) if task else above)

    def _ask(self, reason: Reason) -> None:
        about = reason[2]
        place, actor = about.pop("ask", None), about.pop("ask_node", None)
        if self.left <= 0 or place is None and actor is None:
            return
        self.left -= 1
        if place is None:
            cause = self.asker.ask_of_actor(actor, self.deadline)
            if cause == Cause.CONSTRUCTING:
                reason[1] = Cause.CONSTRUCTING
            return
        peer, what, endpoint = place
        text, found = self.asker.ask_why(peer, what, endpoint, self.deadline)
        found = [each for each in found if is_reason(each)]
        if not found:
            about["says"] = text
        elif reason[1] is Cause.OWNER:
            about["because"] = found
        else:
            _, cause, more = found[0]
            if reason[1] in _REFINED:
                reason[1] = cause
            reason[2] = more | about | {name: more[name] for name in ("because", "ahead") if name in more}


def is_reason(value: Any) -> bool:
    """Validate a reason from another process, maybe of another version; its numbers become Causes."""
    if type(value) not in (list, tuple) or len(value) != 3 or type(value[0]) is not bytes or type(value[2]) is not dict:
        return False
    try:
        value[1] = Cause(value[1])
    except ValueError:
        return False
    value[2]["because"] = [each for each in value[2].get("because") or () if is_reason(each)]
    return True


# ---------------------------------------------------------------- text


def sentence(oid: bytes, cause: Cause, about: dict[str, Any], indent: str = "") -> str:
    """The text for the cause of one wait."""
    name = about.get("name")
    what = f"{name}()" if name else about.get("what", "object")
    says, inner = about.get("says", ""), about.get("because") or ()
    if about.get("text"):
        text = indent + str(about["text"])
    elif len(oid) == ids.TASK_SIZE:
        text = f"{indent}{what} came first and {'runs' if cause is Cause.RUNNING else f'has not ended: {cause.text}'}"
    elif cause is Cause.OWNER and (says or inner):
        text = f"{indent}ObjectRef({ids.short(oid)}), whose owner says:"
    else:
        text = f"{indent}ObjectRef({ids.short(oid)}) of {what}: {cause.text}"
    facts = facts_of(about)
    if facts:
        text += f" ({'; '.join(facts)})"
    if says:
        text += "\n" + "\n".join(f"{indent}  {line}" for line in says.split("\n"))
    for oid, cause, about in inner:
        text += "\n" + sentence(oid, cause, about, indent + "  ")
    return text


def facts_of(about: dict[str, Any]) -> list[str]:
    """What stands in brackets behind a cause."""
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
    return facts


# ---------------------------------------------------------------- when to warn


def is_healthy(found: list[Reason]) -> bool:
    """Whether the wait needs only time: tasks run, or wait only for tasks that run in the same chain of reasons."""
    runs = any(_runs(cause) for _, cause, _ in found)
    actors = {about.get("actor") for _, cause, about in found if _runs(cause)}
    for _, cause, about in found:
        inner = about.get("because") or []
        if _runs(cause) or cause in (Cause.READY, Cause.CONSTRUCTING, Cause.PUSHED):
            continue
        if cause in (Cause.BLOCKED, Cause.DEPENDENCY, Cause.OWNER) and inner and is_healthy(inner):
            continue
        if cause is Cause.RESOURCES_BUSY and (runs or about.get("leases")):
            continue
        if cause is Cause.ACTOR_BUSY and about.get("actor") in actors:
            continue
        return False
    return True


def _runs(cause: Cause) -> bool:
    return cause in (Cause.RUNNING, Cause.ACTOR_HAS)


def progress(found: list[Reason]) -> Any:
    """A value that changes when anything in the chain of reasons makes progress."""
    return [(oid, int(cause), about.get("ahead"), about.get("attempt"), about.get("done"),
             cause is Cause.TRANSFERRING and about.get("detail"),
             cause in (Cause.RESOURCES_BUSY, Cause.LEASE_REQUESTED) and about.get("queued"),
             progress(about.get("because") or [])) for oid, cause, about in found]


def kind(found: list[Reason]) -> str:
    """Names the root of a wait: equal for all processes that wait for the same cause in the same way."""
    if any(cause is Cause.DEADLOCK for cause, _ in _leaves(found)):
        return Cause.DEADLOCK.name
    leaves = sorted({f"{cause.name} {about.get('name') or about.get('what') or ''}" for cause, about in _leaves(found)})
    return ", ".join(leaves[:EXPLAINED_MAX])


def _leaves(found: list[Reason]) -> Iterator[tuple[Cause, dict[str, Any]]]:
    for _, cause, about in found:
        inner = about.get("because")
        if inner:
            yield from _leaves(inner)
        else:
            yield cause, about
