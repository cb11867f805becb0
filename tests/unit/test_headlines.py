"""A warning of a wait is one short line that names what is waited for and the root cause."""

from __future__ import annotations

from typing import Any

import pytest

from zray.base.causes import Cause
from zray.core.waits.explaining import Reasons
from zray.core.waits.headlines import FACTS_MAX, MORE, headline

OID = b"jobjHASHhashHASH" + (3).to_bytes(8, "little") + (1).to_bytes(4, "little")


def reason(cause: Cause, *because: Any, **about: Any) -> list[Any]:
    return [OID, cause, about | ({"because": list(because)} if because else {})]


never = reason(Cause.INFEASIBLE, name="never", detail="it asks for GPU: 1, and the node has none (" + "x" * 500 + ")")


@pytest.mark.parametrize("found, more, words", [
    ([never], 0, "never(): no node has the resources its task asks for (it asks for GPU: 1, and the node has none)"),
    ([reason(Cause.BLOCKED, reason(Cause.OWNER, never), name="chain")] * 3, 4,
     "chain() and 6 more: never(): no node has the resources"),
    ([reason(Cause.OWNER, never)], 0, "never(): no node has the resources"),
    ([reason(Cause.RUNNING, name="runs"), never], 0, "runs(), never(): never(): no node has"),
    ([reason(Cause.STORE_FULL, text="the object store is full (5 MB are to go in)")], 0,
     "the object store is full (5 MB are to go in)"),
    ([reason(Cause.ACTOR_BUSY, reason(Cause.RUNNING, name="A.long", pid=7), name="A.f", ahead=2)], 0,
     "A.f(): its actor has earlier calls to run (2 ahead of it), behind A.long()"),
    ([], 5, "5 more"),
])
def test_the_line_has_the_waited_names_and_the_root(found, more, words):
    line = headline(Reasons(found, more))
    assert words in line and "\n" not in line and line.endswith(MORE)
    assert len(line) < FACTS_MAX + 200


def test_of_a_deadlock_the_line_names_the_circle_and_the_way_out():
    circle = reason(Cause.BLOCKED, reason(Cause.ACTOR_BUSY, reason(
        Cause.BLOCKED, reason(Cause.ACTOR_BUSY, reason(Cause.DEADLOCK, name="P.ping"), name="P.pong"), name="P.ping"),
        name="P.pong"), name="P.ping")
    line = headline(Reasons([circle]))
    assert "a deadlock of P.pong() and P.ping(): let the actor run several calls at once" in line
