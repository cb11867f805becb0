"""The trace that Perfetto opens: names of processes and threads, rows that nest, arrows that bind to spans."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, strategies as st

from zray.node.jobs.spans import SpanLog
from zray.state.trace import FIRST_ROW, NodeTrace, trace_events

NODE = {"NodeManagerAddress": "10.0.0.1", "NodeID": "abcdef0123456789"}


def task(name: str, start: float, end: float, pid: int = 7, number: int = 1, **args: Any) -> dict[str, Any]:
    return {"cat": "task", "ph": "X", "name": name, "pid": "10.0.0.1", "tid": "worker:aa", "ts": start * 1e6,
            "dur": (end - start) * 1e6, "args": {"task_id": f"{number:048x}", "attempt": 0, "ok": True, "job_id": 1,
                                                 "pid": pid, "actor_id": "", **args}}


def check_form(events: list[dict[str, Any]]) -> None:
    """What Chrome's format asks for; AssertionError."""
    json.dumps(events)
    named = {kind: {(event["pid"], event["tid"]) for event in events if event["ph"] == "M" and event["name"] == kind}
             for kind in ("process_name", "thread_name", "thread_sort_index")}
    begun: dict[Any, dict[str, Any]] = {}
    spans: dict[Any, list[tuple[float, float]]] = {}
    for event in events:
        assert event["ph"] in ("X", "M", "s", "f") and isinstance(event["name"], str)
        assert type(event["pid"]) is int and type(event["tid"]) is int and event["ts"] >= 0
        if event["ph"] == "M":
            assert set(event["args"]) in ({"name"}, {"sort_index"})
            continue
        place = event["pid"], event["tid"]
        assert place in named["thread_name"] and place in named["thread_sort_index"]
        assert (event["pid"], 0) in named["process_name"]
        if event["ph"] == "X":
            assert event["dur"] >= 0
            spans.setdefault(place, []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "s":
            assert event["id"] not in begun
            begun[event["id"]] = event
        else:
            assert event["bp"] == "e" and event["ts"] >= begun.pop(event["id"])["ts"]
    assert not begun, "an arrow without an end"
    for row in spans.values():
        open_until: list[float] = []
        for start, end in sorted(row, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1], "spans of one row overlap without nesting"
            open_until.append(end)


def names(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["args"]["name"] for event in events if event["ph"] == "M" and event["name"] == kind]


def test_nodes_workers_actors_and_drivers_have_names():
    spans = [["submit", "f", 3, 0.5, 0.6, {"tasks": [f"{1:048x}"], "driver": True}],
             ["transfer", "transfer 5 bytes", 0, 1.0, 2.0, {"bytes": 5}],
             ["spill", "spill 5 bytes", 0, 1.0, 2.0, {"bytes": 5}], ["wait", "waits in get", 7, 1.2, 1.8, {}]]
    tasks = [task("f", 1, 2), task("Counter.add", 1, 2, 8, 2, actor_id="ff")]
    events = trace_events([NodeTrace(NODE, tasks, [], spans)])
    check_form(events)
    assert names(events, "process_name") == ["node 10.0.0.1 abcdef01"]
    assert sorted(names(events, "thread_name")) == [
        "Counter 8", "driver 3 calls", "spilling", "transfers", "worker 7", "worker 7 waits"]
    assert {event["tid"] for event in events if event.get("cat") == "task"} == {7, 8}
    assert all(event["tid"] > FIRST_ROW - 1 for event in events if event.get("cat") in ("wait", "transfer", "submit"))


def test_arrows_go_from_submit_to_start_and_from_end_to_get_also_between_nodes():
    calls = [["submit", "f", 3, 0.5, 0.6, {"tasks": [f"{1:048x}"], "driver": True}],
             ["get", "get", 3, 0.7, 2.5, {"tasks": [f"{1:048x}", f"{9:048x}"], "driver": True}]]
    events = trace_events([NodeTrace(NODE, [], [], calls), NodeTrace(NODE, [task("f", 1, 2)], [], [])])
    check_form(events)
    arrows = [(event["ph"], event["pid"], event["ts"] / 1e6) for event in events if event.get("cat") == "flow"]
    assert arrows == [("s", 1, 0.5), ("f", 2, 1.0), ("s", 2, 2.0), ("f", 1, 2.5)]


def test_a_running_task_has_an_arrow_to_its_start_alone():
    calls = [[kind, "f", 3, 0.5, 3.0, {"tasks": [f"{1:048x}"], "driver": True}] for kind in ("submit", "get")]
    events = trace_events([NodeTrace(NODE, [], [task("f", 1, 3, running=True)], calls)])
    check_form(events)
    assert [event["ph"] for event in events if event.get("cat") == "flow"] == ["s", "f"]


times = st.integers(0, 20)


@given(st.lists(st.tuples(times, times, st.integers(7, 8)), max_size=25))
def test_spans_of_a_row_always_nest(drawn):
    tasks = [task("f", start, start + length, pid, number) for number, (start, length, pid) in enumerate(drawn)]
    events = trace_events([NodeTrace(NODE, tasks, [], [])])
    check_form(events)
    assert sum(event["ph"] == "X" for event in events) == len(drawn)


def test_the_log_of_spans_is_bounded_pages_and_refuses_what_is_malformed():
    log = SpanLog(3)
    for number in range(5):
        log.add("spill", str(number), 0, 1.0, 2.0, {})
    assert log.page(0, 2) == (2, [["spill", "2", 0, 1.0, 2.0, {}], ["spill", "3", 0, 1.0, 2.0, {}]])
    assert log.page(4, 10)[1] == [["spill", "4", 0, 1.0, 2.0, {}]] and log.page(5, 10) == (5, [])
    assert log.report(9, True, [["get", "get", 1.0, 0.5, [b"t"]]], 4) and log.dropped == 4
    assert log.page(5, 1)[1] == [["get", "get", 9, 1.0, 1.0, {"tasks": ["74"], "driver": True}]]
    for row in (1, [], ["spill", "x", 1.0, 2.0, []], ["get", 1, 1.0, 2.0, []], ["get", "x", "1", 2.0, []],
                ["get", "x", 1.0, 2.0, ["t"]]):
        assert not log.report(9, True, [row], 0)
    log.check()


def test_a_wait_ends_with_its_worker_and_is_shown_while_it_lasts():
    log = SpanLog(10)
    log.blocked(b"w", 7, True, 1.0)
    log.blocked(b"v", 8, True, 2.0)
    assert [row[2:5] for row in log.open_waits(3.0)] == [[7, 1.0, 3.0], [8, 2.0, 3.0]]
    log.ended(b"w", 4.0)
    log.blocked(b"v", 8, False, 5.0)
    log.ended(b"unknown", 6.0)
    assert [row[2:5] for row in log.page(0, 9)[1]] == [[7, 1.0, 4.0], [8, 2.0, 5.0]] and not log.open_waits(6.0)
