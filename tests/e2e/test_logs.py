"""What is left to read of a session that has ended, what stands in it, and what does not."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.e2e.leaks import only_logs
from tests.e2e.scripts import run_script, zray
from tests.e2e.target import exceptions, ray, until
from zray.node.running import session as sessions

pytestmark = pytest.mark.zray_only


def read(*path: str) -> str:
    with open(os.path.join(*path), errors="replace") as file:
        return file.read()


def test_the_logs_of_a_failed_script_stay_and_tell_what_happened(tmp_path, session_root):
    done = run_script(tmp_path, """
        import os, sys, time, zray as ray
        print(ray.init(num_cpus=1)["session_dir"])

        @ray.remote(max_retries=0)
        def breaks():
            print("its last words", file=sys.stderr)
            time.sleep(0.5)  # long enough to be reported as running
            os.abort()

        ray.get(breaks.remote())
        """, check=False)
    assert done.returncode == 1
    session_dir = done.stdout.splitlines()[0]
    assert only_logs(session_dir)
    [named] = [line for line in done.stderr.splitlines() if line.startswith("Its log is ")]
    assert "its last words" in read(named.removeprefix("Its log is "))
    log = read(session_dir, "logs", "node.log")
    for words in ("starts: process", "job 1 begins; its driver is process",
                  "was ended by signal 6, of job 1, while it ran breaks", "job 1 is over", "the end: "):
        assert words in log, log
    said = zray("logs", "node.log", "--tail", "1")
    end, which = said.splitlines()
    assert "the end: " in end and which == f"No session runs; the one that ended last is {session_dir}"
    assert "its last words" in zray("logs", "worker", "--address", session_dir)


def test_errors_of_actors_and_nodes_name_a_log(fresh):
    context = ray.init(num_cpus=1)

    @ray.remote
    class Actor:
        def die(self, how):
            print("words of the actor", flush=True)
            how(1)

    with pytest.raises(exceptions.ActorDiedError, match="Its log is (.*)") as caught:
        ray.get(Actor.remote().die.remote(os._exit))
    assert "words of the actor" in read(str(caught.value).split("Its log is ")[1].split("\n")[0])
    os.kill(ray.nodes()[0]["pid"], signal.SIGKILL)
    node_log = os.path.join(context["session_dir"], "logs", "node.log")
    with pytest.raises(exceptions.LocalRayletDiedError, match=f"Its log is {node_log}"):
        ray.get(ray.remote(time.sleep).remote(60))
    ray.shutdown()
    assert "Actor) is DEAD" in read(node_log)


def test_nodes_that_join_and_end_are_in_the_log_and_secrets_are_not(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1})
    head, other = cluster.list_all_nodes()
    join = head.handle.session.join

    @ray.remote(runtime_env={"env_vars": {"PASSWORD": "hunter2"}})
    def f():
        return os.environ["PASSWORD"]

    assert ray.get(f.remote()) == "hunter2"
    log = os.path.join(head.session_dir, "logs", "node.log")
    assert f"node {other.node_id[:16]} joined" in read(log)
    other.kill()
    until(lambda: f"node {other.node_id[:16]} is gone: " in read(log), "its end is logged")
    everything = "".join(read(node.session_dir, "logs", name) for node in (head, other)
                         for name in os.listdir(os.path.join(node.session_dir, "logs")))
    assert join not in everything and join.removeprefix("zray://")[:40] not in everything
    assert "hunter2" not in everything
    assert not [argument for argument in sys.argv[1:] if len(argument) > 8 and argument in everything]


def test_pressure_on_the_store_is_in_the_log(fresh):
    import numpy as np

    context = ray.init(num_cpus=1, object_store_memory=64 << 20)
    kept = [ray.put(np.ones(20 << 20, np.uint8)) for _ in range(5)]
    until(lambda: "the object store is under pressure: capacity 67,108,864" in read(
        context["session_dir"], "logs", "node.log"), "objects go to disk, and the log says so")
    del kept


# ---------------------------------------------------------------- how long they stay


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("ZRAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(sessions, "FALLBACK_BASE", str(tmp_path))
    made = tmp_path / f"zray-{os.getuid()}"
    made.mkdir()

    def make(name, *files, age_s=0.0):
        for file in ("logs/node.log", *files):
            path = made / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        then = time.time() - age_s
        os.utime(made / name, (then, then))

    make.names = lambda: {path.name for path in made.iterdir()}
    return make


def test_logs_beyond_the_number_or_the_age_go_the_oldest_first(base):
    for n in range(5):
        base(f"ended-{n}", age_s=n * 100 + 10)
    sessions.sweep_logs(4, 250)
    assert base.names() == {"ended-0", "ended-1", "ended-2"}
    sessions.sweep_logs(1, 250)
    assert base.names() == {"ended-0"}
    sessions.sweep_logs(0, 250)
    assert base.names() == set()


def test_sessions_that_run_or_are_being_made_are_never_swept(base):
    base("runs", "owner.json", "node.json", age_s=1e6)
    base("starts", "spill/x", age_s=10)
    base("killed-as-it-started", "spill/x", age_s=1e6)
    (sessions_made,) = {sessions.create()}
    sessions.sweep_logs(0, 0)
    assert base.names() == {"runs", "starts", os.path.basename(sessions_made)}
    sessions.remove(sessions_made)


def test_of_a_session_only_logs_in_which_there_is_something_stay(base, tmp_path):
    base("one", "spill/object", "node.json", "owner.json", "logs/worker-1.out")
    path = tmp_path / f"zray-{os.getuid()}" / "one"
    (path / "logs" / "worker-2.out").touch()
    sessions.retire(str(path))
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*")) == ["logs", "logs/node.log", "logs/worker-1.out"]


def test_nothing_stays_of_a_session_that_logged_nothing(base, tmp_path):
    base("one", "node.json")
    path = tmp_path / f"zray-{os.getuid()}" / "one"
    (path / "logs" / "node.log").write_text("")
    sessions.retire(str(path))
    assert not path.exists()
