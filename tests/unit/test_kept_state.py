"""What a session keeps of its rows: bounded, without secrets, refreshed at a bounded cost, and read back with care."""

from __future__ import annotations

import os
import time
import zlib

import msgpack
import pytest

from zray.base.config import Config
from zray.node.jobs.ended_events import Source
from zray.node.jobs.spans import SpanLog
from zray.node.jobs.task_events import TaskEventLog
from zray.node.running import kept_state
from zray.node.running.kept_state import KeptState, StatePorts, without_secrets
from zray.state import kept
from zray.state.errors import RayStateApiException
from zray.state.timeline import timeline_events
from zray.util import state

NODE = "aabbccdd" + "00000000" + "9" * 40
WORKER = bytes.fromhex("aabbccdd00000001")


class Session:
    """A session whose rows are made by hand."""

    def __init__(self, folder, cluster: str = "", node: str = NODE, **settings):
        self.folder = folder
        (folder / "logs").mkdir(parents=True)
        self.events = TaskEventLog(1000)
        self.spans = SpanLog(1000)
        self.noted: list[str] = []
        self.workers: list[dict] = []
        self.objects: list[dict] = []
        self.news = 0
        self.has_jobs = False
        self.last: dict[str, tuple[list[dict], int]] = {}
        self.kept = KeptState(str(folder), Config(**settings), StatePorts(
            self.answer, self.events, self.spans, last_rows=lambda: self.last,
            store_usage=lambda: {"capacity": 10, "used": 5, "stored": 0, "pids": {}},
            store_objects=lambda most: self.objects[:most], has_jobs=lambda: self.has_jobs, news=lambda: self.news,
            about=lambda: {"session": folder.name, "node_id": node, "cluster": cluster, "started_s": 1.0},
            note=self.noted.append))
        self.node = node

    def answer(self, view, args):
        rows = {"nodes": [{"NodeID": self.node, "NodeManagerAddress": "10.0.0.1", "Alive": True, "Resources": {},
                           "RayletSocketName": "ipc:///x/node.sock"}],
                "workers": self.workers}.get(view, [])
        return {view: rows[:args["limit"]], "total": len(rows)}

    def ran(self, count: int, text: str = "boo") -> None:
        events = [["f", n.to_bytes(24, "little"), 7, 1.0, 2.0, n % 2 == 0, 0, 1, None if n % 2 == 0 else ["E", text],
                   0, ""] for n in range(count)]
        self.events.report(Source(WORKER, WORKER.ljust(28, b"i"), 1, b"", {}), events, 0)


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.sessions, "base_dirs", lambda: [str(tmp_path)])
    return tmp_path


def test_rows_of_an_ended_session_are_those_of_the_state_api(base):
    session = Session(base / "one")
    session.ran(10)
    session.kept.finish("it was told to stop")
    rows = state.list_tasks(address=str(base / "one"), filters=[("state", "=", "FAILED")], detail=True)
    assert len(rows) == 5 and rows[0].error_message == "boo" and rows[0].node_id == NODE
    assert state.summarize_tasks(address=str(base / "one"))["cluster"]["total_tasks"] == 10
    about = kept.KeptNode(str(base / "one")).about
    assert about["ended"] == "it was told to stop" and about["settings"] == {}
    assert os.stat(base / "one" / "state").st_mode & 0o777 == 0o600


def test_the_timeline_of_an_ended_session_has_its_waits_and_what_still_ran(base):
    session = Session(base / "one")
    session.ran(2)
    running = ["g", bytes([9]) * 24, 7, 3.0, 0.0, True, 0, 1, None, 0, ""]
    session.events.report(Source(WORKER, WORKER.ljust(28, b"i"), 1, b"", {}), [running], 0)
    session.spans.add("wait", "waits in get", 7, 1.5, 1.75, {})
    session.spans.blocked(WORKER, 7, True, 4.0)
    session.kept.finish("the end")
    events = timeline_events(kept.KeptAsker(str(base / "one")).ask)
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert sorted(names) == ["f", "f", "g", "waits in get", "waits in get"]
    assert [event["args"].get("running") for event in events if event["name"] == "g"] == [True]
    session.spans.check()


def test_the_file_is_bounded_and_says_what_was_cut(base):
    session = Session(base / "one", session_state_bytes_max=40_000)
    session.ran(900, "x" * 500)
    session.workers = [{"worker_id": f"{n:056x}", "pid": n, "state": "IDLE", "env": {}, "node_id": NODE}
                       for n in range(2000)]
    session.objects = [{"oid": bytes(28), "nbytes": n, "state": "sealed", "holder": WORKER, "copy": False}
                       for n in range(3000)]
    session.kept.finish("the end")
    with open(base / "one" / "state", "rb") as file:
        packed = file.read()
    assert len(zlib.decompress(packed[len(kept_state.STATE_MAGIC):])) < 2 * 40_000
    asker = kept.KeptAsker(str(base / "one"))
    assert asker.ask("functions")["forgotten"] > 500
    assert "2000 workers were kept" in asker.ask("workers")["cut"][0]
    with pytest.raises(RayStateApiException, match="not complete"):
        state.list_workers(address=str(base / "one"))


def test_values_of_environment_variables_and_passwords_are_left_out():
    env = {"env_vars": {"A": "secret"}, "pip": ["https://me:secret@host/simple"]}
    told = repr([without_secrets("workers", {"workers": [{"env": {"TOKEN": "secret"}}]}),
                 without_secrets("actors", {"actors": [{"env": env}]})])
    assert "secret" not in told and "TOKEN" in told and "host/simple" in told


def test_a_session_without_news_has_no_timer_and_a_refresh_pauses_for_a_thousand_times_what_it_took(base):
    session = Session(base / "one", session_state_s=0.5)
    session.kept.tick(time.monotonic())
    assert not (base / "one" / "state").exists()
    session.ran(2)
    session.news = 1
    due = session.kept.next_deadline()
    assert due is not None and session.kept.next_deadline() == due
    session.kept.tick(due)
    assert kept.KeptNode(str(base / "one")).about["ended"] == ""
    assert session.kept.next_deadline() is None
    assert session.kept._pause_s >= 0.5


def test_no_file_where_the_setting_says_none(base):
    session = Session(base / "one", session_state_bytes_max=0)
    session.news = 1
    assert session.kept.next_deadline() is None
    session.kept.finish("the end")
    assert not (base / "one" / "state").exists()
    with pytest.raises(kept.NothingKept, match="session_state_bytes_max"):
        kept.KeptNode(str(base / "one"))


def test_a_full_disk_or_a_bug_does_not_hold_up_the_end(base, monkeypatch):
    session = Session(base / "one")
    monkeypatch.setattr(session, "answer", None)
    session.kept._ports = type(session.kept._ports)(**{**vars(session.kept._ports), "answer": lambda *_: 1 / 0})
    session.kept.finish("the end")
    assert "ZeroDivisionError" in session.noted[0]


@pytest.mark.parametrize("data", [b"", b"nonsense", kept_state.STATE_MAGIC, kept_state.STATE_MAGIC + b"\0",
                                  kept_state.STATE_MAGIC + zlib.compress(msgpack.packb({"about": {"format": 1}})),
                                  kept_state.STATE_MAGIC + zlib.compress(msgpack.packb({"about": {"format": 99}})),
                                  kept_state.STATE_MAGIC + zlib.compress(msgpack.packb(7))])
def test_a_file_that_is_no_state_is_refused_by_name(base, data):
    (base / "one" / "logs").mkdir(parents=True)
    (base / "one" / "state").write_bytes(data)
    with pytest.raises(kept.NothingKept, match="state"):
        kept.KeptNode(str(base / "one"))


def test_a_file_that_was_cut_is_refused(base):
    Session(base / "one").kept.finish("the end")
    whole = (base / "one" / "state").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 20)):
        (base / "one" / "state").write_bytes(whole[:length])
        with pytest.raises(kept.NothingKept):
            kept.KeptNode(str(base / "one"))


def test_sessions_are_found_by_name_by_its_beginning_and_as_the_last(base):
    for number, name in enumerate(("20260101-a", "20260101-b", "20260202-c")):
        Session(base / name).kept.finish("the end")
        os.utime(base / name / "state", (number, number))
    assert kept.directory_of("last") == str(base / "20260202-c") == kept.directory_of("202602")
    assert kept.directory_of(str(base / "20260101-a")) == str(base / "20260101-a")
    for name, said in (("20260101", "2 sessions have names that begin with"), ("", "no session ''"),
                       ("nope", "the latest are 20260101-a, 20260101-b, 20260202-c"), ("no/such", "no folder")):
        with pytest.raises(kept.NothingKept, match=said):
            kept.directory_of(name)


def test_nodes_of_one_cluster_are_read_together(base):
    other = "eeffaabb" + NODE[8:]
    for name, node, cluster in (("one", NODE, "c"), ("two", other, "c"), ("three", "00" * 28, "d")):
        session = Session(base / name, cluster, node)
        session.ran(4)
        session.kept.finish("the end")
    asker = kept.KeptAsker(str(base / "one"))
    assert len(asker.ask("tasks")["tasks"]) == 8 and len(asker.ask("tasks", on=bytes.fromhex(other)[:8])["tasks"]) == 4
    assert [row["Alive"] for row in asker.ask("nodes")["nodes"]] == [True]
    first = asker.nodes[0].answers["nodes"]["nodes"]
    first.append({**first[0], "NodeID": other, "Alive": False})  # it ended first
    first.append({**first[0], "NodeID": "77" * 28})  # it ran on another machine
    assert [(row["Alive"], row.get("State")) for row in asker.ask("nodes")["nodes"]] == [
        (True, None), (True, None), (False, kept.NOT_HERE)]
    with pytest.raises(Exception, match="has kept nothing here"):
        asker.ask("tasks", on=b"x" * 8)
    with pytest.raises(Exception, match="keeps no 'metrics'"):
        asker.ask("metrics")


def test_what_the_last_driver_knew_is_listed_beside_what_the_node_knows(base):
    session = Session(base / "one")
    session.ran(2)
    process = {"type": "DRIVER", "worker_id": WORKER.ljust(28, b"\0"), "pid": 5, "job": 1, "actor": b""}
    made = {"task_id": b"t" * 24, "attempt": 0, "name": "f", "function": "f", "type": "NORMAL_TASK", "created_s": 5.0,
            "state": "PENDING_NODE_ASSIGNMENT", "waits_for": "CPU is in use", "process": process,
            "env": {"env_vars": {"TOKEN": "secret"}}}
    held = {"object_id": b"o" * 28, "nbytes": 9, "reference_type": "LOCAL_REFERENCE", "task_status": "NIL",
            "attempt": 0, "call_site": "x.py:3", "process": process}
    session.last = {"tasks": ([made], 1), "objects": ([held], 1)}
    session.objects = [{"oid": oid, "nbytes": 7, "state": "sealed", "holder": WORKER, "copy": False}
                       for oid in (b"o" * 28, b"p" * 28)]
    session.kept.finish("the end")
    address = str(base / "one")
    (row,) = state.list_tasks(address=address, filters=[("state", "=", "PENDING_NODE_ASSIGNMENT")], detail=True)
    assert row.pending_reason == "CPU is in use" and "secret" not in row.runtime_env_info["serialized_runtime_env"]
    assert state.get_task((b"t" * 24).hex(), address=address) == row
    rows = {row.object_id: row for row in state.list_objects(address=address)}
    assert rows[(b"o" * 28).hex()].call_site == "x.py:3" and rows[(b"p" * 28).hex()].object_size == 7 and len(rows) == 2
    session.last = {"tasks": ([made], 1), "objects": ([], 200_000)}
    session.kept.finish("the end")
    with pytest.raises(RayStateApiException, match="the last driver kept 0 of its 200000 references"):
        state.list_objects(address=address)


def test_the_store_is_that_of_the_moment_when_the_last_job_ended(base):
    session = Session(base / "one")
    held = [{"oid": bytes([n]) * 28, "nbytes": n, "state": "sealed", "holder": WORKER, "copy": False} for n in range(3)]
    session.objects = held
    session.kept.job_over()
    session.objects = []  # its objects are dropped
    session.kept.finish("the end")
    assert len(kept.KeptNode(str(base / "one")).store["objects"]) == 3
    session.objects, session.has_jobs = held[:1], True
    session.kept.finish("it was told to stop while another job ran")
    assert len(kept.KeptNode(str(base / "one")).store["objects"]) == 1
