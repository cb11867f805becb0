"""Task events on the node: bounded, paged, and what a dead worker leaves."""

from __future__ import annotations

from zray.node.jobs.ended_events import Source
from zray.node.jobs.task_counts import OTHER, TaskCounts
from zray.node.jobs.task_events import TaskEventLog

WORKER = b"worker--"


def source(job: int = 1, worker: bytes = WORKER, actor: bytes = b"") -> Source:
    return Source(worker, worker.ljust(28, b"i"), job, actor, {})


def event(n: int, start: float = 1.0, end: float = 2.0, ok: bool = True, attempt: int = 0, count: int = 1) -> list:
    error = None if ok else ["TASK_EXECUTION_EXCEPTION", "User exception:\nboo"]
    return ["f", n.to_bytes(24, "little"), 7, start, end, ok, attempt, count, error, 5, ""]


def test_pages_cover_everything_that_is_kept_once():
    log = TaskEventLog(10)
    assert log.report(source(), [event(n) for n in range(25)], 3)
    seen, start = [], 0
    while start < log.seen:
        following, page = log.timeline(start, 4)
        assert following > start and page
        seen += [entry["args"]["task_id"] for entry in page]
        start = following
    assert seen == [n.to_bytes(24, "little").hex() for n in range(15, 25)]
    assert log.dropped == 3
    log.check()


def test_a_running_task_is_listed_until_it_ends_or_its_worker_does():
    log = TaskEventLog(10)
    log.report(source(), [event(1, end=0.0), event(2, end=0.0)], 0)
    assert [row["state"] for row in log.rows()] == ["RUNNING", "RUNNING"]
    log.report(source(), [event(1)], 0)
    log.worker_gone(b"other---")
    assert [row["state"] for row in log.rows()] == ["RUNNING", "FINISHED"]
    log.worker_gone(WORKER)
    assert sorted(row["state"] for row in log.rows()) == ["FAILED", "FINISHED"]
    log.check()


def test_a_malformed_report_is_refused_and_does_no_harm():
    log = TaskEventLog(10)
    for bad in ([1], [["f"]], [["f", "not bytes", 7, 1.0, 2.0, True, 0, 1, None, 5, ""]], [None]):
        assert not log.report(source(), bad, 0)
    assert not list(log.rows()) and log.timeline(0, 10) == (0, [])


def test_trace_events_have_microseconds_and_counts():
    log = TaskEventLog(10)
    log.report(source(3), [event(1, 10.0, 10.5, ok=False, attempt=2, count=100)], 0)
    (entry,) = log.timeline(0, 10)[1]
    assert entry["ts"] == 10e6 and entry["dur"] == 0.5e6 and entry["name"] == "f x 100" and entry["ph"] == "X"
    assert entry["args"] == {
        "task_id": (1).to_bytes(24, "little").hex(), "attempt": 2, "ok": False, "job_id": 3, "pid": 7,
        "actor_id": ""}
    assert entry["tid"] == f"worker:{WORKER.ljust(28, b'i').hex()}"


def test_what_a_lease_was_granted_and_why_an_attempt_failed_are_in_its_row():
    log = TaskEventLog(10)
    granted = {"resources": {"CPU": 2.0}, "group": [b"g" * 18, 0, False], "labels": {"zone": "a"}}
    assert log.report(source(), [event(1, ok=False)], 0, {5: granted})
    (row,) = log.rows()
    assert (row["resources"], row["group"], row["labels"]) == ({"CPU": 2.0}, b"g" * 18, {"zone": "a"})
    assert (row["error_type"], row["error_message"]) == ("TASK_EXECUTION_EXCEPTION", "User exception:\nboo")


def failure(n: int, kind: str = "WORKER_DIED", attempt: int = 0) -> dict:
    return {"task_id": n.to_bytes(24, "little"), "attempt": attempt, "name": "f", "error_type": kind, "created_s": 1.0,
            "error_message": "why", "end_s": 3.0, "type": "NORMAL_TASK"}


def test_the_owner_says_more_of_an_attempt_than_the_event_of_its_dead_worker():
    log = TaskEventLog(10)
    log.report(source(), [event(1, end=0.0)], 0)
    log.worker_gone(WORKER, 2.5, "SYSTEM_ERROR: it was killed")
    assert log.failed([failure(1, "NODE_DIED"), failure(2)], 4, epoch_s=100.0)
    first, second = log.rows()
    assert (first["error_type"], first["end_s"], first["state"]) == ("NODE_DIED", 2.5, "FAILED")
    assert (second["error_type"], second["end_s"], second["created_s"]) == ("WORKER_DIED", 103.0, 101.0)
    assert log.dropped == 4 and [row["task_id"] for row in log.rows(task=second["task_id"])] == [second["task_id"]]
    log.check()


def test_failures_and_parents_are_bounded_and_checked():
    log = TaskEventLog(3)
    assert log.failed([failure(n) for n in range(5)], 0)
    assert [int.from_bytes(row["task_id"], "little") for row in log.rows()] == [4, 3, 2]
    assert log.report(source(), [], 0, None, [[bytes([n]) * 16, b"t" * 24] for n in range(5)])
    assert list(log.parents) == [bytes([n]) * 16 for n in (2, 3, 4)]
    assert not log.failed([{"task_id": 1}], 0) and not log.failed([None], 0)
    assert not log.report(source(), [], 0, None, [["a", b"b"]])
    log.check()


def test_the_constructor_of_an_actor_and_its_calls_have_their_types():
    log = TaskEventLog(10)
    actor = b"a" * 16
    constructor = ["A.__init__", actor.ljust(24, b"\0"), 7, 1.0, 2.0, True, 0, 1, None, 0, ""]
    log.report(source(actor=actor), [constructor, event(1)], 0)
    assert [row["type"] for row in log.rows()] == ["ACTOR_TASK", "ACTOR_CREATION_TASK"]


def test_what_a_worker_says_of_an_error_is_kept_as_it_is():
    log = TaskEventLog(10)
    odd = event(1, ok=False)
    odd[8] = ["\udcff", "a path: /tmp/\udcff", {b"key": 1}]
    assert log.report(source(), [odd[:8] + [odd[8][:2]] + odd[9:]], 0)
    log.running[b"t" * 24, 0] = source(), [*event(2, end=0.0)[:8], odd[8], 5, ""]
    log.worker_gone(WORKER, 3.0, "it wrote \udcff")
    assert [row["error_message"] for row in log.rows()] == ["it wrote \udcff", "a path: /tmp/\udcff"]
    assert len(log.timeline(0, 10)[1]) == 2


def test_ended_tasks_are_counted_by_name_and_further_names_together():
    counts = TaskCounts(2)
    for number in range(4):
        counts.add(f"f{number}", 1, True, 0, 10)
    counts.add("f0", 1, False, 1)
    counts.add("f0", 2, True, 0)
    assert dict(counts) == {("f0", 1, True, False): 10, ("f1", 1, True, False): 10, (OTHER, 0, True, False): 21,
                            ("f0", 1, False, True): 1}
