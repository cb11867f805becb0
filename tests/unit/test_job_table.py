"""The rows of submitted jobs: writers at the same time, in an order that the test makes, and the room for more."""

from __future__ import annotations

import pytest

from zray.api.local_mode import _Keys
from zray.experimental import internal_kv
from zray.job_submission import logs, table


class Store(_Keys):
    """Keys in memory.  ``between``: what others do after the next read, and before its answer is used."""

    def __init__(self):
        super().__init__()
        self.gcs = self
        self.between = []

    def ask_control_store(self, _what, ask):
        answers = []
        ask(answers.append)
        return answers[0]

    def kv_get(self, key, space, then):
        super().kv_get(key, space, then)
        others, self.between = self.between, []
        for other in others:
            other()


@pytest.fixture
def store(monkeypatch):
    made = Store()
    monkeypatch.setattr(internal_kv, "connected", lambda: made)
    return made


def row(name, status="PENDING", start_time=0, **more):
    return {"submission_id": name, "entrypoint": "true", "status": status, "start_time": start_time, **more}


def test_an_update_keeps_what_another_writes_after_its_read(store):
    table.add(row("job"))
    store.between = [lambda: table.update("job", status="RUNNING", log="there")]
    answer = table.update("job", actor="aa")
    assert answer == table.read("job") == row("job", "RUNNING", log="there", actor="aa")


def test_an_update_changes_no_job_that_ends_after_its_read(store):
    table.add(row("job"))
    store.between = [lambda: table.update("job", status="SUCCEEDED")]
    assert table.update("job", status="FAILED") == table.read("job") == row("job", "SUCCEEDED")


def test_an_update_brings_no_deleted_row_back(store):
    table.add(row("job"))
    store.between = [lambda: table.delete("job")]
    assert table.update("job", status="RUNNING") is None and table.read("job") is None


def test_the_oldest_job_that_ended_makes_room_and_its_log_goes_too(store, monkeypatch, tmp_path):
    monkeypatch.setattr(table, "JOBS_MAX", 3)
    for number, status in enumerate(("RUNNING", "FAILED", "SUCCEEDED")):
        log = tmp_path / f"{number}.log"
        log.touch()
        table.add(row(f"job{number}", status, number, log=str(log), machine=logs.machine_id()))
    table.add(row("new", start_time=3))
    assert [known["submission_id"] for known in table.read_all()] == ["job0", "job2", "new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.log", "2.log"]
