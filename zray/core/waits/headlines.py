"""A wait in one line, for warnings: what is waited for, and the root cause.  ``zray.explain`` has the whole tree."""

from __future__ import annotations

from typing import Any

from zray.base import ids
from zray.base.causes import Cause
from zray.core.waits.explaining import Reasons, facts_of, is_healthy
from zray.core.waits.why import Reason

WAITED_NAMES_MAX = 3  # names of one line
CIRCLE_MAX = 4  # links of a circle that are named: two actors, each with the call that runs and the one that waits
FACTS_MAX = 110  # characters: the resources of a node may be a page
DEADLOCK_ADVICE = "let the actor run several calls at once with max_concurrency, or await in an async method"
MORE = "zray.explain(ref) tells more"


def headline(reasons: Reasons) -> str:
    """``f() and 3 more: g() cannot run ...``, without a line end."""
    path = _root(reasons.found)
    if not path:
        return f"{_waited(reasons)}: {MORE}"
    _, cause, about = path[-1]
    if cause is Cause.DEADLOCK:
        circle = list(dict.fromkeys(map(_name, path[-CIRCLE_MAX:])))
        why = f"a deadlock of {' and '.join(circle)}: {DEADLOCK_ADVICE}"
    elif about.get("text"):
        why = _cut(str(about["text"]))
    else:
        facts = _cut("; ".join(facts_of(about)))
        why = f"{cause.text} ({facts})" if facts else cause.text
        if about.get("because"):
            why += f", behind {_name(about['because'][0])}"
        if _name(path[-1]) != _waited(reasons):
            why = f"{_name(path[-1])}: {why}"
    return " ".join(f"{_waited(reasons)}: {why}; {MORE}".split())


def _root(found: list[Reason]) -> list[Reason]:
    """The reasons from the waited object to the deepest cause that time alone may not repair."""
    if not found:
        return []
    reason = next((each for each in found if not is_healthy([each])), found[0])
    inner = reason[2].get("because") or []
    return [reason] if not inner or is_healthy(inner) else [reason, *_root(inner)]


def _waited(reasons: Reasons) -> str:
    names = list(dict.fromkeys(map(_name, reasons.found)))[:WAITED_NAMES_MAX]
    more = len(reasons.found) + reasons.more - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _name(reason: Reason) -> str:
    oid, cause, about = reason
    if about.get("name"):
        return f"{about['name']}()"
    if cause is Cause.OWNER and about.get("because"):  # the owner knows its name
        return _name(about["because"][0])
    return str(about.get("what") or (f"ObjectRef({ids.short(oid)})" if oid else "an object"))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    if len(text) <= FACTS_MAX:
        return text
    head, bracket, _ = text[:FACTS_MAX].rpartition(" (")
    return head if bracket and head else text[:FACTS_MAX - 3] + "..."


def joined(*parts: Any) -> str:
    """The parts that are not empty, in one line."""
    return "; ".join(" ".join(str(part).split()) for part in parts if part)
