"""Stories of owners: bounded, sent ten times a second, and joined with the events of the worker."""

from __future__ import annotations

from zray.base.causes import Cause
from zray.node.jobs.task_events import STORIES_MAX, TaskEventLog
from zray.owner.records import DONE, PUSHED, Function, Key, Task
from zray.owner.stories import STORIES_EVERY_S, Stories
from zray.state import attempts
from zray.state.places import Places


def task(number: int, created: float = 1.0, key: Key | None = None, state: int = DONE) -> Task:
    made = Task(number.to_bytes(24, "little"), Function(b"f", None, "f"), [], 1, key, 0)
    made.created, made.state = created, state
    return made


def test_a_story_says_what_the_key_waited_for_since_the_submission():
    sent: list[list] = []
    stories = Stories(1000, sent.append)
    key = Key(1, {}, {}, {}, "f")
    key.waited = (5.0, int(Cause.RESOURCES_BUSY), "CPU: 4 of 4 in use")
    for made in (task(1, 4.0, key), task(2, 6.0, key), task(3, 4.0), task(4, 4.0, state=PUSHED), task(5, 0.0)):
        stories.ended(made)
    stories.flush(7.0)
    (rows,) = sent
    assert [int.from_bytes(row[0], "little") for row in rows] == [1, 2, 3] and stories.due == 7.0 + STORIES_EVERY_S
    assert "CPU: 4 of 4 in use" in rows[0][3] and rows[1][3] == rows[2][3] == ""


def test_no_more_stories_wait_than_may_go_in_a_second():
    stories = Stories(100, lambda rows: None)
    for number in range(1000):
        stories.ended(task(number))
    assert len(stories.rows) == 10


def test_the_node_keeps_the_last_stories_and_refuses_what_is_none():
    log = TaskEventLog(100_000)
    rows = [[number.to_bytes(24, "little"), 0, 1.0, "why"] for number in range(STORIES_MAX + 5)]
    assert log.told(rows, 100.0) and len(log.stories) == STORIES_MAX
    assert log.stories[rows[-1][0], 0] == (101.0, "why") and (rows[0][0], 0) not in log.stories
    for bad in ([1], [[b"t", 0, 1.0]], [[b"t", 0, 1, "why"]], [["t", 0, 1.0, "why"]]):
        assert not log.told(bad)
    log.check()


def test_the_row_of_an_attempt_has_its_states_with_their_times():
    event = {"task_id": "00000001" + "ab" * 20, "name": "f", "state": "FINISHED", "job": 1, "pid": 2, "attempt": 0,
             "count": 1, "start_s": 6.0, "end_s": 9.0, "worker_id": "", "actor": "", "leased_s": 5.5,
             "blocked": [[7.0, 8.0], [8.5, 9.0]]}
    (row,) = attempts.rows([event], [], [], {}, {}, Places([]), [(event["task_id"], 0, 5.0, "CPU is in use")])
    assert [(step["state"], step["created_ms"]) for step in row["events"]] == [
        ("PENDING_ARGS_AVAIL", 5000), ("SUBMITTED_TO_WORKER", 5500), ("RUNNING", 6000), ("RUNNING_IN_RAY_GET", 7000),
        ("RUNNING", 8000), ("RUNNING_IN_RAY_GET", 8500), ("FINISHED", 9000)]
    assert row["pending_reason"] == "CPU is in use" and row["creation_time_ms"] == 5000
    (row,) = attempts.rows([event], [], [], {}, {}, Places([]), [(event["task_id"], 0, 5.8, "")])
    assert "SUBMITTED_TO_WORKER" not in [step["state"] for step in row["events"]], "the lease served another task first"
    (row,) = attempts.rows([event], [], [], {}, {}, Places([]), [("00" * 24, 0, 5.0, "")])
    assert row["creation_time_ms"] == 6000
