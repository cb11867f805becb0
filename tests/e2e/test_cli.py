"""The commands that look at a live session."""

from __future__ import annotations

import json
import os
import re
import threading

import pytest

from tests.e2e.target import ray, until
from zray.base.ids import short

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only


@pytest.fixture
def session(cluster, gate):
    """A session in which one task holds all CPUs, one waits, an actor lives, and an object is stored."""
    import numpy as np

    @ray.remote(num_cpus=4)
    def holds(gate):
        gate.wait()

    @ray.remote(num_cpus=0)
    class Lives:
        def f(self):
            return os.getpid()

    actor = Lives.options(name="lives").remote()
    pid = ray.get(actor.f.remote())
    stored = ray.put(np.ones(1_000_000))
    refs = [holds.remote(gate), holds.remote(gate)]
    gate.wait_arrived(1)
    yield {"pid": pid, "stored": stored, "refs": refs}
    gate.open()
    ray.get(refs)
    ray.kill(actor)


@pytest.fixture
def zray(session):
    from click.testing import CliRunner

    from zray.cli import main

    address = ray.get_runtime_context().get_temp_dir()

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner(env={"COLUMNS": "500"}).invoke(main, [*arguments, "--address", address])
        assert result.exit_code == code, result.output
        return result.output

    return run


def rows(zray, *arguments):
    return json.loads(zray(*arguments, "--format", "json"))


def test_status_and_explain_say_what_waits_and_why(zray, session):
    until(lambda: "holds (1)" in zray("status"), "the waiting task is known")
    assert "in use: 4/4 CPU" in zray("status") and rows(zray, "status")["available"].get("CPU", 0) == 0
    assert "the resources its task asks for are in use" in zray("explain")
    assert rows(zray, "explain")[0]["want"] == 1


def test_explain_says_what_a_driver_waits_for(zray, session):
    thread = threading.Thread(target=ray.get, args=(session["refs"],), daemon=True)
    thread.start()
    until(lambda: f"pid {os.getpid()}, waits in get or wait" in zray("explain"), "the wait is known")
    said = zray("explain").partition("waits in get or wait")[2]
    assert "holds(): its task is running" in said and "in use by holds (1)" in said


def test_lists_filter_limit_and_format(zray, session):
    (actor,) = rows(zray, "list", "actors", "--filter", "name=lives", "--filter", "state=ALIVE")
    assert actor["pid"] == session["pid"] and actor["class_name"] == "Lives"
    pid = f"pid={session['pid']}"
    assert rows(zray, "list", "actors", "--filter", pid, "--filter", "state!=ALIVE") == []
    assert zray("list", "actors", "--filter", "name=nobody").strip() == "(none)"
    until(lambda: rows(zray, "list", "tasks", "--filter", "state=RUNNING"), "the running task is listed")
    assert len(rows(zray, "list", "tasks", "--limit", "1")) == 1
    assert 'name: "lives"' in zray("list", "actors", "--format", "yaml")
    for what in ("nodes", "workers", "leases", "jobs", "objects", "cluster-events"):
        assert rows(zray, "list", what), what
        assert len(zray("list", what).splitlines()) >= 2, what
    zray("list", "actors", "--filter", "nonsense", code=2)
    for what in ("nodes", "workers", "leases", "jobs", "objects", "actors", "tasks", "placement-groups",
                 "runtime-envs", "cluster-events"):
        assert "filter column bogus is not supported" in zray("list", what, "--filter", "bogus=1", code=2)
    assert "did you mean 'name'?" in zray("list", "actors", "--filter", "nam=lives", code=2)
    zray("list", "actors", "--limit", "-1", code=2)
    assert short(session["stored"].binary()) in zray("list", "objects")


def test_get_and_summary(zray, session):
    (actor,) = rows(zray, "list", "actors", "--filter", f"pid={session['pid']}", "--detail")
    assert rows(zray, "get", "actors", actor["actor_id"]) == actor
    assert rows(zray, "get", "objects", session["stored"].hex())["object_size"] > 8_000_000
    assert rows(zray, "get", "actor", "lives") == actor, "a name, and the singular"
    assert rows(zray, "get", "actor", actor["actor_id"][8:14]) == actor, "the beginning, without the job"
    assert rows(zray, "get", "objects", short(session["stored"].binary()))["object_size"] > 8_000_000
    assert "no actor with id or name 'ffff'" in zray("get", "actors", "ffff", code=1)
    assert "no actor with id or name ''" in zray("get", "actors", "", code=1)
    assert "their ids begin with it" in zray("get", "tasks", "0", code=1)
    assert {"class_name", "state", "count"} == set(rows(zray, "summary", "actors")[0])
    assert rows(zray, "summary", "objects") and rows(zray, "job", "list")
    assert {"func_or_class_name": "holds", "state": "RUNNING", "count": 1} in rows(zray, "summary", "tasks")


def test_stacks_of_workers(zray, session):
    assert "gate.wait" in zray("stack")
    text = zray("stack", str(session["pid"]))
    assert f"pid {session['pid']}" in text and "no thread is in user code" in text, "an idle actor"
    assert "MainThread" in zray("stack", "lives", "--all")
    assert f"driver (pid {os.getpid()})" in zray("stack", str(os.getpid()))
    said = zray("stack", "99999999", code=1)
    assert "no driver or worker runs that '99999999' means" in said and str(session["pid"]) in said


def test_timeline_and_logs(zray, session, tmp_path):
    path = str(tmp_path / "trace.json")
    until(lambda: "Lives.f" in zray("timeline", "--output", path) + open_text(path), "the call is reported")
    assert "node.log" in zray("logs") and "starts" in zray("logs", "node.log")
    zray("logs", "nothing-like-this", code=1)
    zray("logs", "node.log", "--tail", "-1", code=2)
    assert "cannot write" in zray("timeline", "--output", str(tmp_path / "none" / "trace.json"), code=1)


def test_actors_are_explained_by_the_beginning_of_their_id(zray, session):
    (actor,) = rows(zray, "list", "actors", "--filter", f"pid={session['pid']}")
    assert "is ALIVE: it is ready" in zray("explain", actor["actor_id"][:20])
    assert "placement group with id or name 'zz'" in zray("explain", "zz", code=1)


def test_what_runs_is_named_and_who_waits_for_an_actor_or_in_get(zray, session, gate):
    @ray.remote(num_cpus=0)
    class Busy:
        def hold(self, gate):
            gate.wait()

        def other(self):
            return 1

    @ray.remote(num_cpus=0)
    def first():
        return os.getpid()

    @ray.remote(num_cpus=0)
    def second(actor):
        return ray.get(actor.other.remote())

    actor = Busy.remote()
    held = actor.hold.remote(gate)
    gate.wait_arrived(2)
    ray.get(first.remote())  # the lease is taken in this name
    refs = [second.remote(actor) for _ in range(2)]
    words = (r"2 x \S*Busy\.other\(\)", r"Busy\.hold\(\) runs", "waits in get or wait", "came first and runs")

    def explained() -> bool:  # workers report what they run and what waits for it ten times a second
        said = zray("explain")
        return all(re.search(part, said) for part in words)

    until(explained, lambda: zray("explain"))
    until(lambda: len(rows(zray, "list", "tasks", "--filter", "state=RUNNING_IN_RAY_GET")) == 2, "both wait in get")
    queued = rows(zray, "list", "tasks", "--filter", "state=PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY")
    assert [row["name"] for row in queued] == ["Busy.other"] * 2
    until(lambda: sum(row["name"].split(".")[-1] == "second" for row in rows(zray, "list", "leases")) == 2,
          "the leases have the names of what runs, not of what they were taken for")
    gate.open()
    assert ray.get([held, *refs]) == [None, 1, 1]
    until(lambda: "Busy.other" not in zray("explain"), "nothing waits there any more")


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["stop", "--session-dir", "/nope"], 1, "no zray node of this user runs in '/nope'"),
    (["status", "--address", "/nope"], 1, "neither 'auto', nor the directory of a session"),
    (["stak"], 2, "did you mean 'stack'?"),
    (["list", "things"], 2, "is not one of"),
    (["logs", "--address", "/nope"], 1, "neither 'auto'"),
    (["microbenchmark", "--num-cpus", "0"], 2, "not in the range"),
    (["demo", "--nodes", "9"], 2, "not in the range"),
    (["start", "--head", "--num-cpus", "-1"], 1, "num"),
    (["start", "--head", "--resources", "[]"], 1, "--resources"),
])
def test_wrong_commands_say_so_and_do_not_end_with_0(session_root, arguments, code, words):
    from click.testing import CliRunner

    from zray.cli import main

    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code and words in result.output, result.output


def open_text(path: str) -> str:
    with open(path) as file:
        return file.read()
