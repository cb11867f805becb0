"""A person finds causes from the shell: why, stack, profile, memory, logs; and ends things: kill, cancel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.e2e.leaks import only_logs
from tests.e2e.scripts import environment, run_script, zray as command
from tests.e2e.target import Gate, exceptions, ray, until

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only
HOSTILE = "two\nlines\x1b[31m\u202e" + "x" * 2000


@pytest.fixture(scope="module")
def program(module_footprint, tmp_path_factory):
    """A session in which calls and tasks of each kind wait or run."""
    import numpy as np

    gate = Gate(tmp_path_factory.mktemp("program"))
    ray.shutdown()
    ray.init(num_cpus=4, _system_config={"record_ref_creation_sites": True})

    @ray.remote(num_cpus=0)
    class Counter:
        def hold(self, gate):
            print("the counter holds")
            gate.wait()

        def add(self, n):
            return n

    @ray.remote(num_cpus=0)
    class Aio:
        async def listens(self, gate):
            gate.arrive()
            while not os.path.exists(gate.path):
                await asyncio.sleep(0.05)

    @ray.remote(num_cpus=0)
    def asks(refs):
        return ray.get(refs[0])

    @ray.remote(num_cpus=1)
    def spin(gate):
        gate.arrive()
        while not os.path.exists(gate.path):
            churn(200_000)

    @ray.remote(num_cpus=99)
    def never():
        pass

    @ray.remote(num_cpus=0, max_retries=0)
    def raises():
        raise ValueError("a wrong value")

    counter, aio = Counter.options(name="counter").remote(), Aio.options(name=HOSTILE).remote()
    held = [counter.hold.remote(gate), *(counter.add.remote(n) for n in range(2))]
    running = [*held, spin.remote(gate), aio.listens.remote(gate), asks.remote(held[2:])]
    waiting, failed, stored = never.remote(), raises.remote(), ray.put(np.ones(2_000_000))
    gate.wait_arrived(3)
    with pytest.raises(exceptions.RayTaskError):
        ray.get(failed)
    yield {"waiting": waiting, "failed": failed, "stored": stored, "actors": [counter, aio]}
    gate.open()
    ray.get(running)
    ray.cancel(waiting)
    module_footprint.watch()


def churn(n):
    return sum(i * i for i in range(n))


@pytest.fixture
def zray(program):
    from click.testing import CliRunner

    from zray.cli import main

    address = ray.get_runtime_context().get_temp_dir()

    def run(*arguments: str, code: int = 0, columns: int = 300) -> str:
        result = CliRunner(env={"COLUMNS": str(columns)}).invoke(main, [*arguments, "--address", address])
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_why_names_the_cause_by_a_name_or_the_beginning_of_an_id(zray, program):
    until(lambda: "no node has the resources" in zray("why", "never"), lambda: zray("why", "never"))
    task = program["waiting"].task_id().hex()
    ageless = [re.sub(r" for \S+", "", zray("why", one)) for one in (task, zray_short(program["waiting"]))]
    assert ageless[0] == ageless[1], "the whole id and its short form"
    until(lambda: "2 calls wait" in zray("why", "counter") or "1 call wait" in zray("why", "counter"),
          lambda: zray("why", "counter"))
    assert re.search(r"hold\(\) runs on pid \d+ for ", zray("why", "counter"))
    until(lambda: "came first and runs" in zray("why", "asks"), lambda: zray("why", "asks"))
    until(lambda: "a wrong value" in zray("why", "raises"), lambda: zray("why", "raises"))
    assert "15.3 MiB" in zray("why", zray_short(program["stored"])) and "holds it" in zray("explain",
                                                                                        zray_short(program["stored"]))
    found = json.loads(zray("why", "never", "--format", "json"))
    assert (found["kind"], found["name"], found["state"]) == ("task", "never", "PENDING_NODE_ASSIGNMENT")
    assert "with id or name 'nobody'" in zray("why", "nobody", code=1)


def zray_short(ref) -> str:
    from zray.base.ids import short

    return short(ref.binary())


def test_stacks_are_by_function_with_coroutines_and_without_idle_workers(zray, program):
    until(lambda: all(one in zray("stack") for one in ("---- spin", "in listens", "---- Counter.hold")),
          lambda: zray("stack"))
    said = zray("stack")
    assert "---- driver (pid " in said and "of actor counter (1 worker" in said
    assert re.search(r"coroutine \S+:\n  File .* in listens\n    await asyncio.sleep", said), said
    assert "zray-service" not in said and "zray-service" in zray("stack", "--all")
    assert "in spin" in zray("stack", "spin") and "driver" not in zray("stack", "spin")
    rows = json.loads(zray("stack", "counter", "--format", "json"))
    assert [len(row["pids"]) for row in rows] == [1]


def test_a_profile_of_a_running_function_is_a_flame_graph(zray, program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # without py-spy: the process samples itself
    drawn = tmp_path / "p.svg"
    until(lambda: "spin" in zray("list", "workers"), "its worker is known")
    said = zray("profile", "spin", "--seconds", "0.3", "-o", str(drawn))
    assert "churn" in said and drawn.read_text().startswith("<svg") and "churn" in drawn.read_text()
    scope = tmp_path / "p.speedscope.json"
    zray("profile", "spin", "--seconds", "0.1", "-o", str(scope))
    assert json.loads(scope.read_text())["profiles"][0]["type"] == "sampled"
    assert "no driver or worker runs" in zray("profile", "nobody", code=1)
    assert "cannot write" in zray("profile", "spin", "--seconds", "0.1", "-o", str(tmp_path / "no" / "p.svg"), code=1)
    zray("profile", "spin", "--seconds", "1000", code=2)


def test_memory_names_holders_and_lines_the_biggest_first(zray, program):
    first = zray("memory").splitlines()[2]
    assert first.startswith("15.3 MiB") and "driver" in first and "test_cli_causes.py:program:" in first
    assert json.loads(zray("memory", "--format", "json"))["holders"][0]["bytes"] > 16_000_000


def test_logs_are_found_by_actor_function_and_worker(zray, program):
    [row] = json.loads(zray("list", "actors", "--filter", "name=counter", "--format", "json"))
    said = "the counter holds\n"
    until(lambda: "actor counter" in zray("logs"), "the log is listed")
    assert zray("logs", "--actor", "counter", "--stream", "out") == said
    assert zray("logs", "counter", "--stream", "out") == zray("logs", "--worker", str(row["pid"]), "--stream", "out")
    assert zray("logs", "--task", "Counter.hold", "--stream", "out") == said
    assert "no actor of this name" in zray("logs", "--actor", "nobody", code=1)
    assert " starts: process " in zray("logs", "--node", ray.get_runtime_context().get_node_id()[:8])
    assert any(row["process"].endswith("actor counter") for row in json.loads(zray("logs", "--format", "json")))


def test_a_followed_log_shows_what_is_written_later(zray, program, tmp_path):
    @ray.remote(num_cpus=0)
    class Speaker:
        def say(self, text):
            print(text, flush=True)

    speaker = Speaker.options(name="speaker").remote()
    ray.get(speaker.say.remote("before"))
    address = ray.get_runtime_context().get_temp_dir()
    follower = subprocess.Popen([sys.executable, "-m", "zray.cli", "logs", "--actor", "speaker", "-f",
                                 "--stream", "out", "--address", address], stdout=subprocess.PIPE, text=True,
                                env=environment())
    try:
        assert follower.stdout.readline() == "before\n"
        ray.get(speaker.say.remote("after"))
        assert follower.stdout.readline() == "after\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 0
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
        ray.kill(speaker)


def test_every_list_fits_a_narrow_window_whatever_the_names(zray, program):
    for what in ("actors", "tasks", "workers", "leases", "nodes", "jobs", "objects", "cluster-events"):
        for columns in (40, 80):
            said = zray("list", what, columns=columns)
            assert max(map(len, said.splitlines())) <= columns, (what, columns, said)
    for arguments in (["status"], ["top"], ["memory"], ["events"], ["explain"], ["get", "actor", "counter"]):
        said = zray(*arguments, columns=40)
        assert max(map(len, said.splitlines())) <= 40, said
        assert "\x1b" not in said and "\u202e" not in said
    assert HOSTILE in [row["name"] for row in json.loads(zray("list", "actors", "--format", "json"))]
    queued = next(line for line in zray("list", "actors").splitlines() if " counter " in line)
    assert re.search(r"Counter\.hold .* [12] +\d", queued), queued


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(program):
    address = ray.get_runtime_context().get_temp_dir()
    shell = f"{sys.executable} -m zray.cli list tasks --format json --address {address} | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_an_actor_is_killed_by_its_name_and_a_worker_by_its_pid(zray, program):
    @ray.remote(num_cpus=0, max_restarts=1)
    class Server:
        def pid(self):
            return os.getpid()

    server = Server.options(name="server").remote()
    pid = ray.get(server.pid.remote())
    worker = next(row["worker_id"] for row in json.loads(zray("list", "workers", "--format", "json"))
                  if row["pid"] == pid and row["is_alive"])
    assert f"killed worker {pid}" in zray("kill", worker)
    second = until(lambda: next((row["pid"] for row in json.loads(zray(
        "list", "actors", "--filter", "name=server", "--format", "json")) if row["state"] == "ALIVE"
        and row["pid"] not in (0, pid)), 0), "it has restarted")
    assert f"pid {second}" in zray("kill", "server")
    with pytest.raises(exceptions.ActorDiedError, match="killed by `zray kill`"):
        ray.get(server.pid.remote())
    assert "no live actor and no worker" in zray("kill", "server", code=1)


def test_tasks_are_cancelled_by_the_name_of_their_function(zray, program, gate):
    @ray.remote(num_cpus=0)
    def sleeps(gate):
        gate.wait()

    @ray.remote(num_cpus=98)
    def queued():
        pass

    running, waiting = sleeps.remote(gate), [queued.remote() for _ in range(2)]
    gate.wait_arrived(1)
    until(lambda: zray("list", "tasks").count("queued") == 2, "both are known")
    assert "means 2 tasks" in zray("cancel", "queued", code=1)
    assert "cancelled 2 tasks: queued" in zray("cancel", "queued", "--all")
    assert "cancelled 1 task: sleeps" in zray("cancel", zray_short(running))
    for ref in (running, *waiting):
        with pytest.raises(exceptions.TaskCancelledError):
            ray.get(ref)
    assert "no unfinished task" in zray("cancel", "nobody", code=1)
    assert "--force is for tasks" in zray("cancel", "Counter.hold", "--force", code=1)


def test_the_logs_of_an_ended_run_are_found_by_class_and_function(tmp_path, session_root):
    done = run_script(tmp_path, """
        import zray as ray
        print(ray.init(num_cpus=1)["session_dir"])

        @ray.remote
        class Printer:
            def speak(self):
                print("words of an actor")

        @ray.remote
        def other():
            print("words of a task")

        ray.get([Printer.remote().speak.remote(), other.remote()])
        """)
    session_dir = done.stdout.splitlines()[0]
    assert only_logs(session_dir)
    assert command("logs", "--actor", "Printer", "--address", session_dir) == "words of an actor\n"
    assert command("logs", "--task", "other", "--address", session_dir) == "words of a task\n"
    assert "no actor of this name" in command("logs", "--actor", "Nobody", "--address", session_dir, code=1)
    assert "that session has ended (its rows: zray list tasks" in command("status", "--address", session_dir, code=1)
