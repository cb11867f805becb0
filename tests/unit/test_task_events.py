"""Task events on the node: bounded, paged, and what a dead worker leaves."""

from __future__ import annotations

from zray.node.jobs.task_events import TaskEventLog

WORKER = b"worker--"


def event(n: int, start: float = 1.0, end: float = 2.0, ok: bool = True, attempt: int = 0, count: int = 1) -> list:
    return ["f", n.to_bytes(24, "little"), 7, start, end, ok, attempt, count]


def test_pages_cover_everything_that_is_kept_once():
    log = TaskEventLog(10)
    assert log.report(WORKER, 1, [event(n) for n in range(25)], 3)
    seen, start = [], 0
    while start < log.seen:
        first, page = log.timeline(start, 4)
        assert first >= start and page
        seen += [entry["args"]["task_id"] for entry in page]
        start = first + len(page)
    assert seen == [n.to_bytes(24, "little").hex() for n in range(15, 25)]
    assert log.dropped == 3
    log.check()


def test_a_running_task_is_listed_until_it_ends_or_its_worker_does():
    log = TaskEventLog(10)
    log.report(WORKER, 1, [event(1, end=0.0), event(2, end=0.0)], 0)
    assert [row["state"] for row in log.rows()] == ["RUNNING", "RUNNING"]
    log.report(WORKER, 1, [event(1)], 0)
    log.worker_gone(b"other---")
    assert [row["state"] for row in log.rows()] == ["RUNNING", "FINISHED"]
    log.worker_gone(WORKER)
    assert sorted(row["state"] for row in log.rows()) == ["FAILED", "FINISHED"]
    log.check()


def test_a_malformed_report_is_refused_and_does_no_harm():
    log = TaskEventLog(10)
    for bad in ([1], [["f"]], [["f", "not bytes", 7, 1.0, 2.0, True, 0, 1]], [None]):
        assert not log.report(WORKER, 1, bad, 0)
    assert not log.rows() and log.timeline(0, 10) == (0, [])


def test_trace_events_have_microseconds_and_counts():
    log = TaskEventLog(10)
    log.report(WORKER, 3, [event(1, 10.0, 10.5, ok=False, attempt=2, count=100)], 0)
    (entry,) = log.timeline(0, 10)[1]
    assert entry["ts"] == 10e6 and entry["dur"] == 0.5e6 and entry["name"] == "f x 100" and entry["ph"] == "X"
    assert entry["args"] == {"task_id": (1).to_bytes(24, "little").hex(), "attempt": 2, "ok": False, "job_id": 3}
