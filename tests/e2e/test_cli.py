"""The commands that look at a live session."""

from __future__ import annotations

import json
import os

import pytest

from tests.e2e.target import ray, until

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
        result = CliRunner().invoke(main, [*arguments, "--address", address])
        assert result.exit_code == code, result.output
        return result.output

    return run


def rows(zray, *arguments):
    return json.loads(zray(*arguments, "--format", "json"))


def test_status_and_explain_say_what_waits_and_why(zray, session):
    until(lambda: "holds (1)" in zray("status"), "the waiting task is known")
    assert "4/4 CPU in use" in zray("status") and rows(zray, "status")["available"].get("CPU", 0) == 0
    assert "the resources its task asks for are in use" in zray("explain")
    assert rows(zray, "explain")[0]["want"] == 1


def test_lists_filter_limit_and_format(zray, session):
    (actor,) = rows(zray, "list", "actors", "--filter", "name=lives", "--filter", "state=ALIVE")
    assert actor["pid"] == session["pid"]
    pid = f"pid={session['pid']}"
    assert rows(zray, "list", "actors", "--filter", pid, "--filter", "state!=ALIVE") == []
    assert zray("list", "actors", "--filter", "name=nobody").strip() == "(none)"
    until(lambda: rows(zray, "list", "tasks", "--filter", "state=RUNNING"), "the running task is listed")
    assert len(rows(zray, "list", "tasks", "--limit", "1")) == 1
    assert 'name: "lives"' in zray("list", "actors", "--format", "yaml")
    for what in ("nodes", "workers", "leases", "jobs", "objects"):
        assert rows(zray, "list", what), what
        assert len(zray("list", what).splitlines()) >= 3, what
    zray("list", "actors", "--filter", "nonsense", code=2)
    assert session["stored"].hex() in zray("list", "objects") and session["stored"].hex() in zray("memory")


def test_get_and_summary(zray, session):
    (actor,) = rows(zray, "list", "actors", "--filter", f"pid={session['pid']}")
    assert rows(zray, "get", "actors", actor["actor_id"]) == actor
    assert rows(zray, "get", "objects", session["stored"].hex())["nbytes"] > 8_000_000
    zray("get", "actors", "ffff", code=1)
    assert {"class_name", "state", "count"} == set(rows(zray, "summary", "actors")[0])
    assert rows(zray, "summary", "objects") and rows(zray, "job", "list")
    assert ".holds" in zray("summary", "tasks")


def test_stacks_of_workers(zray, session):
    assert "gate.wait" in zray("stack")
    (text,) = [zray("stack", str(session["pid"]))]
    assert f"pid {session['pid']}" in text and "MainThread" in text


def test_timeline_and_logs(zray, session, tmp_path):
    path = str(tmp_path / "trace.json")
    until(lambda: "Lives.f" in zray("timeline", "--output", path) + open_text(path), "the call is reported")
    assert "node.log" in zray("logs")
    zray("logs", "nothing-like-this", code=1)


def open_text(path: str) -> str:
    with open(path) as file:
        return file.read()
