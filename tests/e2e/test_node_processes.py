"""The node's real processes: they start, find each other, and end together, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import zray as ray
from benchmarks.proc import name_of
from tests.e2e.leaks import only_logs
from tests.e2e.nodes import ended
from tests.e2e.scripts import ROOT, environment, zray
from tests.e2e.target import until
from zray.base.os_linux import write_private
from zray.node.processes import linux
from zray.node.running import launch, session as sessions
from zray.util.state import list_workers

STORE = 64 << 20


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(entry))
    return found


def workers_of(pid):
    return [child for child in children_of(pid) if name_of(child) == "zray-worker"]


def segments(session_dir):
    return [name for name in os.listdir("/dev/shm") if os.path.basename(session_dir) in name]


@pytest.fixture
def tmp_sessions(monkeypatch):
    """Sessions of this test alone, under a short path."""
    with tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp") as base:
        monkeypatch.setenv("ZRAY_TMPDIR", base)
        yield base


@pytest.fixture
def node(tmp_sessions):
    handle = launch.start_node(num_cpus=2, object_store_memory=STORE)
    yield handle
    handle.stop()
    assert ended(handle.pid)
    assert only_logs(handle.session_dir)
    assert not segments(handle.session_dir)


def test_a_node_starts_its_workers_and_leaves_nothing_behind(node):
    workers = until(lambda: len(found := workers_of(node.pid)) == 2 and found)
    assert sorted(map(name_of, children_of(node.pid))) == ["zray-worker", "zray-worker", "zray-zygote"]
    for pid in workers:
        assert os.getsid(pid) == pid, "a worker has its own session"
    assert os.stat(node.session_dir).st_mode & 0o777 == 0o700
    assert os.stat(os.path.join(node.session_dir, "node.json")).st_mode & 0o777 == 0o600
    node.stop()
    until(lambda: all(map(ended, workers)))


FORKING = f"""
import glob, os, zray
for logs in range(4, 26, 2):
    zray.init(num_cpus=2, object_store_memory={STORE})
    held = [zray.remote(num_cpus=0)(type("Idle", (), {{}})).remote() for _ in range(12)]
    root = max(glob.glob(os.environ["ZRAY_TMPDIR"] + "/*/2*"), key=os.path.getctime)
    while len(os.listdir(root + "/logs")) < logs:
        os.sched_yield()
    zray.shutdown()
    print(root, flush=True)
"""


def test_a_node_that_ends_while_its_workers_are_forked_takes_them_with_it(tmp_sessions):
    """They were neither killed nor waited for, and put their logs and sockets into the directory that was deleted."""
    ran = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, cwd=ROOT, check=True)
    for session_dir in ran.stdout.split():
        assert only_logs(session_dir), (session_dir, os.listdir(session_dir))
        assert not segments(session_dir)


def test_a_killed_worker_takes_nobody_with_it(node):
    def sockets():
        return {name for name in os.listdir(node.session_dir) if name.startswith("w-")}

    killed, other = until(lambda: len(found := workers_of(node.pid)) == 2 and found)
    before = until(lambda: len(found := sockets()) == 2 and found)
    os.kill(killed, signal.SIGKILL)
    until(lambda: ended(killed))
    assert not ended(other) and not ended(node.pid)
    until(lambda: len(before - sockets()) == 1, "the socket of the killed worker is gone")


def test_a_killed_daemon_takes_its_workers_with_it(tmp_sessions):
    handle = launch.start_node(num_cpus=2, object_store_memory=STORE)
    family = until(lambda: len(found := children_of(handle.pid)) == 3 and found)
    os.kill(handle.pid, signal.SIGKILL)
    until(lambda: all(map(ended, family)))
    handle.stop()
    assert not segments(handle.session_dir) and only_logs(handle.session_dir)


@pytest.mark.parametrize("zygote_too", [False, True], ids=["", "of a second zygote"])
def test_a_killed_daemon_takes_what_its_workers_started_with_it(fresh, tmp_path, zygote_too):
    """Also below a command of the user's that starts Python as a child."""
    command = tmp_path / "python"
    command.write_text(f'#!/bin/sh\n{sys.executable} "$@"\nexit $?\n')
    command.chmod(0o700)
    ray.init(num_cpus=2)

    @ray.remote
    class Starter:
        def start(self):
            self.child = subprocess.Popen(["sh", "-c", "sleep 1000; true"])
            (below,) = until(lambda: linux.children(self.child.pid))
            return os.getppid(), os.getpid(), self.child.pid, below

    starters = [Starter.remote(), Starter.options(runtime_env={"py_executable": str(command)}).remote()]
    family = ray.get([starter.start.remote() for starter in starters])
    node, *_ = family[0]
    assert linux.parent(family[1][0]) == node, "the command is between"
    if zygote_too:
        (zygote,) = (pid for pid in children_of(node) if name_of(pid) == "zray-zygote")
        os.kill(zygote, signal.SIGKILL)
        until(lambda: ended(zygote) and any(name_of(pid) == "zray-zygote" for pid in children_of(node)))
        ray.get(ray.remote(lambda: 1).options(num_cpus=0).remote())
    pids = {pid for each in family for pid in each}
    fresh.watch()
    os.kill(node, signal.SIGKILL)
    until(lambda: all(map(ended, pids)), lambda: f"of {family} these run: {[pid for pid in pids if not ended(pid)]}")


def test_a_killed_driver_takes_its_node_with_it(tmp_sessions):
    program = (f"from zray.node.running import launch; h = launch.start_node(num_cpus=1, object_store_memory={STORE});"
               "print(h.pid, h.session_dir, flush=True); import signal; signal.pause()")
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    pid, session_dir = driver.stdout.readline().split()
    family = until(lambda: len(found := children_of(int(pid))) == 2 and found)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    until(lambda: ended(int(pid)) and all(map(ended, family)))
    until(lambda: only_logs(session_dir) and not segments(session_dir))


def test_a_started_node_outlives_its_starter_and_is_found_and_stopped(tmp_sessions):
    program = ("from zray.node.running import launch; h = launch.start_node(num_cpus=1, share_fate=False,"
               f"object_store_memory={STORE}); print(h.pid)")
    pid = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT,
                             check=True).stdout)
    assert not ended(pid)
    found = launch.find_session("auto")
    assert found.pid == pid
    assert launch.find_session(found.session_dir).node == found.node
    assert [session.pid for session in launch.stop_sessions()] == [pid]
    until(lambda: ended(pid))
    with pytest.raises(ConnectionError, match="Could not find any running"):
        launch.find_session("auto")


def test_commands_find_the_session_of_the_one_program_that_runs(tmp_sessions):
    with contextlib.ExitStack() as programs:
        def program() -> str:
            text = "import sys, zray; print(zray.init(num_cpus=1).address_info['session_dir'], flush=True); input()"
            driver = programs.enter_context(
                subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                 env=environment()))
            return driver.stdout.readline().strip()

        first = program()
        assert f"session {first}" in zray("status", COLUMNS="200")
        assert "driver" in zray("stack") and "nothing waits" in zray("explain")
        with pytest.raises(ConnectionError, match=f"programs with a session of their own run here.*{first}"):
            launch.find_session("auto")  # a program that says "auto" means a cluster
        second = program()
        said = zray("status", COLUMNS="200")
        assert f"2 sessions run; this is {second}" in said and first in said and f"session {second}" in said
        assert f"2 sessions run; this is {second}" in zray("logs"), "one rule for all commands"
        assert f"session {first}" in zray("status", "--address", first, COLUMNS="200")


def test_stop_does_not_touch_a_process_that_only_has_the_same_number(tmp_sessions):
    session_dir = sessions.create()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        start_time = linux.start_time(stranger.pid) - 1
        stale = sessions.NodeSession(session_dir, b"x" * 8, "", "", stranger.pid, start_time, False, 0.0)
        write_private(os.path.join(session_dir, "node.json"), stale.to_json())
        assert launch.stop_sessions() == [] and not launch.end_process(stale)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_killed_zygote_is_replaced(node):
    until(lambda: len(workers_of(node.pid)) == 2)
    [zygote] = [pid for pid in children_of(node.pid) if name_of(pid) == "zray-zygote"]
    os.kill(zygote, signal.SIGKILL)
    until(lambda: [pid for pid in children_of(node.pid) if pid != zygote and name_of(pid) == "zray-zygote"])
    assert not ended(node.pid)


def test_a_zygote_that_is_killed_while_it_forks_costs_no_worker_and_leaves_none_that_nobody_knows(fresh):
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Process:
        def pids(self):
            return os.getppid(), os.getpid()

    first = Process.remote()
    node, pid = ray.get(first.pids.remote())
    others = []
    for _ in range(3):
        others += [Process.remote() for _ in range(5)]
        ray.wait([others[-5].pids.remote()])  # of this batch, some are forked just now
        # the forks of an earlier zygote have its name, and are older
        zygote = max(until(lambda: [child for child in children_of(node) if name_of(child) == "zray-zygote"]))
        os.kill(zygote, signal.SIGKILL)
        until(lambda zygote=zygote: ended(zygote))
    known = {own for _, own in ray.get([actor.pids.remote() for actor in (first, *others)])}
    assert pid in known and len(known) == 16

    def unknown():
        listed = {row.pid for row in list_workers(limit=1000) if row.is_alive}
        return set(workers_of(node)) - listed - known

    until(lambda: not unknown(), lambda: f"{unknown()} are no workers of the node")


def test_ctrl_c_in_the_terminal_spares_the_node(node):
    assert os.getsid(node.pid) == node.pid


@pytest.mark.parametrize(("fields", "words"), [
    ({"num_cpus": -1}, "CPU"),
    ({"resources": {"CPU": 1}}, "--num-cpus"),
    ({"resources": {"x": "many"}}, "'x'"),
    ({"labels": {"zone": 3}}, "zone"),
    ({"object_store_memory": 5}, "--object-store-memory"),
    ({"config": {"workers_max": "many"}}, "workers_max"),
    ({"session_dir": "/proc/zray"}, "/proc/zray"),
    ({"session_dir": "/tmp/" + "x" * 120}, "too long"),
])
def test_bad_options_end_in_one_sentence_that_names_them(tmp_sessions, fields, words):
    with pytest.raises(launch.NodeStartError) as caught:
        launch.start_node(**{"object_store_memory": STORE, **fields})
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_long_temporary_directory_falls_back_to_a_short_one(tmp_sessions, monkeypatch):
    long = os.path.join(tmp_sessions, "y" * 100)
    monkeypatch.setenv("ZRAY_TMPDIR", long)
    session_dir = sessions.create()
    try:
        assert sessions.socket_fits(session_dir) and not session_dir.startswith(long)
    finally:
        sessions.remove(session_dir)


def test_node_json_reads_back(node):
    found = sessions.read(node.session_dir)
    assert found is not None and found.alive() and found.pid == node.pid
    assert json.loads(found.to_json())["node"] == node.node.hex()


def test_a_node_without_work_sleeps(node):
    """No periodic wake-ups: while nothing happens the daemon's threads are not scheduled."""
    until(lambda: len(workers_of(node.pid)) == 2)

    def switches():
        total = 0
        for thread in os.listdir(f"/proc/{node.pid}/task"):
            with open(f"/proc/{node.pid}/task/{thread}/status") as file:
                total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
        return total

    def quiet():
        before = switches()
        time.sleep(0.5)
        return switches() == before

    until(quiet)


IMPORTED = """
import importlib, sys
import zray.node.process
from zray.node.processes import zygote

zygote.one_blas_thread()
for name in zygote.IMPORTS:
    importlib.import_module(name)
print(*sys.modules)
"""
WORKERS_USE = """
import zray

zray.init(num_cpus=1)

class Modules:
    def all(self):
        import sys
        return set(sys.modules)

@zray.remote
def all_of(numbers, by=None):
    return Modules().all()

actor = zray.remote(Modules).options(num_cpus=0).remote()
found = zray.get(actor.all.remote()) | zray.get(all_of.remote([1], by=zray.put("a")))
print(*found)
"""


def test_a_worker_imports_no_module_of_zray_after_its_fork(tmp_sessions):
    # Each such module costs every worker a millisecond and some hundred pages.
    inherited, used = (subprocess.run([sys.executable, "-c", text], cwd=ROOT, env=environment(), text=True, check=True,
                                      capture_output=True, timeout=60).stdout.split()
                       for text in (IMPORTED, WORKERS_USE))
    late = {name for name in set(used) - set(inherited) if name.partition(".")[0] in ("zray", "cloudpickle", "numpy")}
    assert late == set()
