"""When a wait is worth a warning, and how often."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from zray.base.causes import Cause
from zray.core.logging_config import _Formatter
from zray.core.waits import patience as patience_module
from zray.core.waits.explaining import Asking, Reasons, is_healthy, kind, sentence
from zray.core.waits.patience import Patience, Warned

OID = b"jobjHASHhashHASH" + (3).to_bytes(8, "little") + (1).to_bytes(4, "little")
TASK = OID[:24]
NOBODY = Asking(SimpleNamespace(ask_why=lambda *_: ("", []), ask_of_actor=lambda *_: None), 0.0)


def reason(cause: Cause, *because: Any, **about: Any) -> list[Any]:
    return [OID, cause, about | ({"because": list(because)} if because else {})]


def looks(*steps: tuple[int, list[Any]], warn_s: float = 4.0) -> list[bool]:
    """What Patience says at each look, half of ``warn_s`` apart: (missing, reasons)."""
    patience = Patience(warn_s, 0.0)
    said = []
    for step, (need, found) in enumerate(steps, 1):
        assert patience.until(None) == step * warn_s / 2
        said.append(patience.look(step * warn_s / 2, need, Reasons(found), NOBODY))
        if said[-1]:
            break
    return said


def test_what_does_not_move_is_told_after_the_whole_time():
    stuck = (1, [reason(Cause.INFEASIBLE)])
    assert looks(stuck, stuck) == [False, True]


def test_what_moves_is_not_told():
    queue = [(1, [reason(Cause.ACTOR_BUSY, ahead=ahead)]) for ahead in range(10, 0, -1)]
    assert not any(looks(*queue))
    missing = [(need, [reason(Cause.RESOURCES_BUSY)]) for need in range(10, 0, -1)]
    assert not any(looks(*missing))
    assert looks(*queue[:3], queue[2], queue[2]) == [False, False, False, False, True]


def test_once_told_a_wait_is_silent_and_so_it_is_when_turned_off():
    patience = Patience(4.0, 0.0)
    for now in (2.0, 4.0):
        patience.look(now, 1, Reasons([reason(Cause.INFEASIBLE)]), NOBODY)
    assert patience.until(None) is None and patience.until(99.0) == 99.0
    for off in (0.0, -1.0):
        assert Patience(off, 0.0).until(None) is None


@pytest.mark.parametrize("found", [
    [reason(Cause.RUNNING)], [reason(Cause.ACTOR_HAS)], [reason(Cause.CONSTRUCTING)],
    [reason(Cause.DEPENDENCY, reason(Cause.RUNNING))], [reason(Cause.BLOCKED, reason(Cause.RUNNING))],
    [reason(Cause.OWNER, reason(Cause.RUNNING))], [reason(Cause.RESOURCES_BUSY, leases=1)],
    [reason(Cause.RUNNING), reason(Cause.RESOURCES_BUSY)],
    [reason(Cause.ACTOR_HAS, actor="a"), reason(Cause.ACTOR_BUSY, actor="a")],
])
def test_a_matter_of_time_is_healthy(found):
    assert is_healthy(found)
    assert not any(looks(*[(1, found)] * 10))


@pytest.mark.parametrize("found", [
    [reason(Cause.INFEASIBLE)], [reason(Cause.RESOURCES_BUSY)], [reason(Cause.ACTOR_BUSY, reason(Cause.RUNNING))],
    [reason(Cause.RUNNING), reason(Cause.INFEASIBLE)], [reason(Cause.BLOCKED, reason(Cause.DEADLOCK))],
    [reason(Cause.DEPENDENCY, reason(Cause.INFEASIBLE))], [reason(Cause.OWNER)],
    [reason(Cause.ACTOR_HAS, actor="a"), reason(Cause.ACTOR_BUSY, actor="b")],
])
def test_what_time_may_not_mend_is_not_healthy(found):
    assert not is_healthy(found)


def test_a_task_that_is_met_below_itself_is_a_deadlock_however_long_the_circle():
    def ask_why(peer, what, endpoint, deadline):
        following = bytes([what[0] % 3 + 1]) * 24  # 1 waits for 2, 2 for 3, 3 for 1
        inner = [following, int(Cause.ACTOR_HAS), {"task": following.hex(), "name": "m", "ask": [b"p", following, ""]}]
        return "", [[what, int(Cause.BLOCKED), {"task": what.hex(), "name": "m", "because": [inner]}]]

    first = b"\x01" * 24
    found = [[OID, Cause.ACTOR_HAS, {"task": first.hex(), "name": "m", "ask": [b"p", first, ""]}]]
    asker: Any = SimpleNamespace(ask_why=ask_why, ask_of_actor=lambda *_: None)
    Asking(asker, 1.0).follow(found)
    said = sentence(*found[0])
    assert kind(found) == "DEADLOCK" and said.count("it waits in get or wait") == 3 and "a deadlock" in said


def test_malformed_reasons_of_other_processes_are_dropped():
    answers: list[Any] = [[1], [b"x", 9999, {}], ["x", 1, {}], [b"x", 1, []], [TASK, int(Cause.RUNNING), {"name": "f"}]]
    asker: Any = SimpleNamespace(ask_why=lambda *_: ("", answers), ask_of_actor=lambda *_: None)
    found = [[OID, Cause.ACTOR_HAS, {"ask": [b"p", TASK, ""]}]]
    Asking(asker, 1.0).follow(found)
    assert found[0][1] is Cause.RUNNING


def test_warnings_of_one_kind_are_one_in_a_minute_for_the_driver_and_its_workers(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(patience_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    driver, workers = Warned(False), [Warned(True) for _ in range(3)]
    stuck = Reasons([reason(Cause.INFEASIBLE, name="f")])
    with caplog.at_level(logging.WARNING, "zray"):
        for worker in workers:
            worker.wait(5.0, stuck)
        lines = [["g", 7, True, record.getMessage()] for record in caplog.records]
        assert len(lines) == 3 and all("\n" not in line[3] for line in lines)
        caplog.clear()
        assert driver.take([*lines, ["g", 7, False, "other output"]]) == [["g", 7, False, "other output"]]
        driver.wait(5.0, stuck)
        assert caplog.text.count("has waited") == 1 and "(g pid=7)" in caplog.text
        driver.wait(5.0, Reasons([reason(Cause.INFEASIBLE, name="other")]))
        assert caplog.text.count("has waited") == 2
        now[0] += 61.0
        driver.wait(5.0, stuck)
    assert "3 more waits like this in the last 61 s" in caplog.text


@pytest.mark.parametrize("encoding", ["TEXT", "JSON"])
def test_a_workers_warning_reaches_the_driver_whole_whatever_the_format_of_its_log(encoding, caplog):
    with caplog.at_level(logging.WARNING, "zray"):
        Warned(True).wait(5.0, Reasons([reason(Cause.INFEASIBLE, name="f")]))
        line = _Formatter(encoding, []).format(caplog.records[0])
        caplog.clear()
        assert Warned(False).take([["g", 7, True, line]]) == []
    assert "zray.get has waited for 5 s for f(): no node has" in caplog.text and "\x01" not in caplog.text
