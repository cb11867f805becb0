"""The dashboard of a real session: how it starts and ends, what it shows, what it does, and whom it refuses."""

from __future__ import annotations

import os
import re
import stat

import pytest

from tests.e2e.dashboards import served
from tests.e2e.nodes import ended
from tests.e2e.scripts import zray
from tests.e2e.target import exceptions, ray, until

pytestmark = pytest.mark.zray_only
pytest.importorskip("uvicorn", reason="the extra zray[dashboard] is not installed")
pytest.importorskip("starlette", reason="the extra zray[dashboard] is not installed")
HOSTILE = "<script>alert(1)</script>"


@ray.remote(num_cpus=0)
class Waits:
    def wait(self, gate):
        gate.wait()

    def pid(self):
        return os.getpid()


@ray.remote(num_cpus=1)
def holds(gate):
    gate.wait()


@ray.remote(num_cpus=0)
def asks(refs):
    return ray.get(refs)


@ray.remote(max_retries=0)
def fails():
    raise ValueError(HOSTILE)


@pytest.fixture(scope="module")
def session_dir(module_footprint):
    if not ray.is_initialized():
        ray.init(num_cpus=2)
    return ray.get_runtime_context().get_temp_dir()


@pytest.fixture(scope="module")
def page(session_dir):
    with served(session_dir, "--port", "0") as (page, _):
        yield page


# ---------------------------------------------------------------- what it shows


def test_what_runs_what_waits_and_why_and_what_failed(page, gate):
    with pytest.raises(exceptions.RayTaskError):
        ray.get(fails.options(name=HOSTILE).remote())
    refs = [holds.remote(gate) for _ in range(3)]
    gate.wait_arrived(2)
    impossible = holds.options(num_gpus=1, name="impossible").remote(gate)

    def shown():
        found = page.read("overview")
        causes = {row["what"]: row["cause"] for row in found["waiting"]}
        return (found["phases"].get("runs") == 2 and causes.get("holds") == "the resources its task asks for are in use"
                and causes.get("impossible") == "no node has the resources its task asks for"
                and any(row["name"] == HOSTILE and row["message"] == f"ValueError: {HOSTILE}"
                        for row in found["failures"]))

    until(shown, lambda: f"the overview says it: {page.read('overview')}")
    rows = page.read("tasks", search="impossible")["table"]["rows"]
    assert len(rows) == 1 and "it asks for GPU: 1" in rows[0]["pending_reason"]
    assert "no node has the resources its task asks for" in page.ask("why", task=rows[0]["task_id"])
    assert page.act("cancel", rows[0]["task_id"])[0] == 200
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(impossible, timeout=30)
    gate.open()
    ray.get(refs)


def test_a_task_that_waits_in_get_says_for_what(page, gate):
    inner = holds.options(name="inner").remote(gate)
    outer = asks.remote([inner])
    gate.wait_arrived(1)
    row = until(lambda: next(iter(page.read("tasks", name="asks", state="RUNNING_IN_RAY_GET")["table"]["rows"]), None))
    assert "inner" in page.ask("why", task=row["task_id"])
    assert page.read("task", id=row["task_id"])["attempts"][0]["state"] == "RUNNING_IN_RAY_GET"
    gate.open()
    ray.get(outer)


def test_an_actor_shows_its_queue_its_stack_and_its_log_and_can_be_killed(page, gate):
    actor = Waits.remote()
    pid = ray.get(actor.pid.remote())
    calls = [actor.wait.remote(gate) for _ in range(4)]
    gate.wait_arrived(1)
    identifier = actor._actor_id.hex()

    def queue():
        about = page.read("actor", id=identifier)["queue"]
        return about and about["queued"] == 3 and about["head_ms"] and about["running"] == "Waits.wait"

    until(queue, lambda: f"three calls wait: {page.read('actor', id=identifier)['queue']}")
    assert "gate.wait()" in page.ask("stack", actor=identifier)
    logs = page.read("logs", actor=identifier)
    assert re.fullmatch(r"worker-[0-9a-f]{16}\.out", logs["file"]) and logs["file"] in logs["files"]
    assert page.act("kill", identifier) == (200, {"done": f"asked the home of actor {identifier} to kill it"})
    with pytest.raises(exceptions.ActorDiedError, match="killed from the dashboard"):
        ray.get(calls[1], timeout=30)
    until(lambda: ended(pid))
    assert page.act("kill", identifier) == (409, {"error": "the actor is dead already"})


def test_a_task_that_runs_can_be_cancelled(page, gate):
    ref = holds.remote(gate)
    gate.wait_arrived(1)
    assert page.act("cancel", ref.task_id().hex())[0] == 200
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)
    until(lambda: page.act("cancel", ref.task_id().hex())[0] == 409)


def test_every_other_view_is_there(page):
    import numpy as np

    held = ray.put(np.ones(1_000_000))
    found = page.read("objects")
    assert found["table"]["rows"][0]["object_id"] == held.hex() and found["holders"][0]["pid"] == os.getpid()
    node_id = ray.nodes()[0]["NodeID"]
    assert [row["node_id"] for row in page.read("nodes")["nodes"]] == [node_id]
    assert page.read("jobs")["table"]["rows"][0]["driver_info"]["pid"] == str(os.getpid())
    assert page.read("control")["voters"] == [node_id[:16]]
    assert page.read("events", severity="INFO")["table"]["matched"] > 0
    assert {lane["node_id"] for lane in page.read("timeline")["lanes"]} <= {node_id}
    assert "ray_resources" in {family["name"] for family in page.read("metrics")["families"]}
    status, trace = page.request("GET", "/api/ask/trace")
    assert status == 200 and trace["traceEvents"]
    for view in ("workers", "groups", "stream"):
        page.read(view)


@pytest.mark.parametrize(("method", "identifier", "status", "words"), [
    ("kill", "zz", 400, "the id of an actor is hex digits"), ("kill", "00", 400, "the id of an actor"),
    ("kill", "00" * 16, 409, "no live node knows that actor"), ("cancel", "00" * 24, 409, "it has ended"),
    ("drain", "00" * 28, 409, "no live node has that id"),
    ("shutdown", "00", 400, "the methods are kill, cancel, drain"),
    ("", "00", 400, "needs method"), ("kill", "", 400, "needs id"), ("kill", "٣٣", 400, "hex digits")])
def test_a_wrong_action_says_what_is_wrong(page, method, identifier, status, words):
    found = page.act(method, identifier)
    assert found[0] == status and words in found[1]["error"]


def test_the_only_node_cannot_be_drained(page):
    status, found = page.act("drain", ray.nodes()[0]["NodeID"])
    assert status == 409 and "the only node" in found["error"]


def test_a_node_that_has_no_such_file_gives_none(page):
    for name in ("../node.json", "node.json", "worker-0000000000000000.out"):
        status, found = page.request("GET", f"/api/read?view=logs&file={name}")
        assert status == 400 and "has no log file" in found["error"]


# ---------------------------------------------------------------- whom it refuses


def test_an_old_token_another_origin_and_another_host_are_refused(page):
    assert page.request("GET", "/api/session", Authorization="Bearer old")[0] == 401
    assert page.request("GET", "/api/session", Origin="http://evil.example")[0] == 403
    assert page.request("GET", "/api/session", Host="evil.example")[0] == 403
    assert page.request("POST", "/api/act", {"method": "kill", "id": "00" * 16}, Origin="http://evil.example")[0] == 403
    assert page.request("GET", "/api/session", Origin=f"http://{page.address}")[0] == 200


def test_the_token_is_in_a_private_file_and_in_no_command_line(page, session_dir):
    file = os.path.join(session_dir, "dashboard.json")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        assert page.token not in " ".join(process.info["cmdline"] or ())


def test_a_second_command_prints_the_link_of_the_first(page, session_dir):
    assert zray("dashboard", "--address", session_dir).strip() == page.link
    assert "runs at" in zray("dashboard", "--address", session_dir, "--port", "1", code=1)


def test_two_tabs_get_their_updates_and_a_stream_ends_with_its_page(page):
    with page.stream("jobs") as one, page.stream("jobs") as two:
        assert next(one)[1]["view"] == next(two)[1]["view"] == "jobs"
    with page.stream("tasks") as again:
        assert next(again)[1]["view"] == "tasks"
