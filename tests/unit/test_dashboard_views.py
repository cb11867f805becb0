"""What each page gets, of rows that a file may have kept: no session runs here."""

from __future__ import annotations

import json
import time

import pytest

from tests.fakes.kept_rows import HOSTILE, NODE, actor, session, task
from zray.dashboard import tasks as of_tasks
from zray.dashboard.query import BadQuery, Query
from zray.dashboard.reading import FRESH_S, PageReader
from zray.dashboard.source import RowsSource, SourceError
from zray.dashboard.views import VIEWS, make


def view(name: str, source: RowsSource | None = None, **given: str) -> dict:
    found = make(PageReader(source or session()), name, Query.of(given))
    assert json.loads(json.dumps(found, allow_nan=False)) is not None
    return found


NEEDS_ID = {"task": task(0)["task_id"], "actor": actor(1)["actor_id"]}


@pytest.mark.parametrize("name", VIEWS)
def test_each_view_is_json_of_bounded_size_whatever_the_names_are(name):
    found = view(name, **({"id": NEEDS_ID[name]} if name in NEEDS_ID else {}))
    assert len(json.dumps(found)) < 100_000
    if name not in ("logs",):
        assert "error" not in found


def test_the_overview_has_what_runs_what_waits_and_why_and_what_failed():
    found = view("overview")
    assert found["phases"] == {"finished": len(HOSTILE), "failed": 1, "runs": 1, "waits": 2}
    assert [group["name"] for group in found["running"]] == ["g"]
    causes = {row["what"]: (row["count"], row["cause"]) for row in found["waiting"]}
    assert causes[HOSTILE[0]] == (3, "no node has the resources its task asks for")
    assert causes["Counter.add"] == (5, "its actor has earlier calls to run")
    assert causes["h"] == (1, "its task waits for arguments that are not ready")
    assert [row["message"] for row in found["failures"]] == ["ValueError: <b>no</b>"]
    assert found["nodes"][0]["use"] == {"CPU": [3.0, 4.0]} and found["nodes"][0]["store"]["used"] == 25.0


def test_an_actor_shows_its_queue_and_the_age_of_its_head():
    queue = [task(number, "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "C.f", type="ACTOR_TASK",
                  actor_id=actor(1)["actor_id"]) for number in (9, 7, 8)]
    runs = task(6, "RUNNING", "C.f", type="ACTOR_TASK", actor_id=actor(1)["actor_id"])
    source = session(tasks=[runs, *queue])
    row = next(row for row in view("actors", source)["table"]["rows"] if row["actor_id"] == actor(1)["actor_id"])
    assert (row["queued"], row["head_ms"], row["running"], row["running_ms"]) == (3, 1_007, "C.f", 2_006)
    one = view("actor", source, id=actor(1)["actor_id"])
    assert one["queue"]["queued"] == 3 and one["calls"]["matched"] == 4
    assert view("actor", source, id="00")["found"] is False


def test_a_task_tells_its_attempts_its_parent_and_its_children():
    parent = task(1, "RUNNING", "parent")
    children = [task(number, "FINISHED", "child", parent_task_id=parent["task_id"]) for number in range(10, 250)]
    found = view("task", session(tasks=[parent, *children]), id=children[0]["task_id"])
    assert found["parent"]["name"] == "parent" and len(found["attempts"]) == 1
    above = view("task", session(tasks=[parent, *children]), id=parent["task_id"])
    assert above["children_total"] == 240 and len(above["children"]) == of_tasks.RELATED_MAX
    assert view("task", id="zz")["found"] is False
    with pytest.raises(BadQuery, match="the parameter id is missing"):
        view("task")


def test_counts_are_of_items_and_unfinished_functions_come_first():
    found = of_tasks.counts([task(1, name="done", count=64), task(2, "RUNNING", "busy"), task(3, "FAILED", "bad"),
                             task(4, "RUNNING_IN_RAY_GET", "stuck"), task(5, "PENDING_NODE_ASSIGNMENT", "later")])
    assert [group["name"] for group in found["groups"]] == ["busy", "stuck", "later", "bad", "done"]
    assert found["groups"][-1]["finished"] == 64 and found["groups"][1]["blocked"] == 1
    many = of_tasks.counts(task(number, name=f"f{number}") for number in range(1_000))
    assert len(many["groups"]) == of_tasks.COUNTED_FUNCTIONS_MAX and many["functions"] == 1_000


def test_the_stream_has_a_bounded_number_of_bars_in_lanes_that_keep_their_order():
    now = time.time() * 1000
    rows = [task(number, start_time_ms=now - 5_000, end_time_ms=now - 10) for number in range(3_000)]
    found = of_tasks.bars(rows, now, 30)
    assert len(found["bars"]) == of_tasks.STREAM_BARS_MAX and found["left_out"] == 1_500
    assert [lane["pid"] for lane in found["lanes"]] == list(range(100, 107))
    assert {bar[0] for bar in found["bars"]} == set(range(7))
    assert of_tasks.bars(rows, now + 60_000, 30)["bars"] == [], "what ended before the span is not shown"
    running = task(1, "RUNNING", start_time_ms=now - 10 ** 6)
    assert of_tasks.bars([running], now, 30)["bars"][0][3] == 0


def test_objects_are_summed_by_holder_and_line_and_the_largest_is_first():
    found = view("objects")
    assert [row["object_size"] for row in found["table"]["rows"]] == [20, 10, 0]
    assert found["holders"] == [{"type": "DRIVER", "pid": 1, "ip": "10.0.0.1", "count": 3, "bytes": 30}]
    assert found["stores"] == {NODE: {"capacity": 100.0, "used": 25.0}}


def test_what_was_not_kept_of_an_ended_session_says_so():
    empty = RowsSource({"nodes": [], "jobs": []})
    assert "has ended, and nothing was kept of its gcs" in view("control", empty)["error"]
    with pytest.raises(SourceError, match="no kind of rows is named task; the kinds are"):
        RowsSource({"task": []})
    with pytest.raises(BadQuery, match="no view is named 'x'"):
        view("x")


def test_two_pages_ask_the_session_once_and_again_when_the_answer_is_old():
    asked: list[str] = []

    class Counting(RowsSource):
        def rows(self, kind, *args, **more):
            asked.append(kind)
            return super().rows(kind, *args, **more)

    now = [0.0]
    reader = PageReader(Counting({"jobs": []}), clock=lambda: now[0])
    make(reader, "jobs", Query())
    make(reader, "jobs", Query(search="x"))
    assert asked == ["jobs"]
    now[0] += FRESH_S
    make(reader, "jobs", Query())
    assert asked == ["jobs", "jobs"]
