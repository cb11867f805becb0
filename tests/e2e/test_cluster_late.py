"""Daemons that get no turn while their processes answer: late, not dead."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.nodes import ask, replicated, states
from tests.e2e.scripts import environment
from tests.e2e.target import Counts, ray, until

pytestmark = pytest.mark.zray_only

TIMEOUT_S = 0.6
PATIENT = {"num_cpus": 1, "_system_config": {"node_timeout_s": TIMEOUT_S}}

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # of ptrace
WALL = 0x40000000

Counter = ray.remote(num_cpus=0)(Counts)


@contextlib.contextmanager
def no_turns(pid: int):
    """Only the thread that takes the daemon's turns stands still: libzmq's threads go on, as on a starved machine."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request: int) -> None:
        if libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, None):
            pytest.skip(f"no ptrace here: {os.strerror(ctypes.get_errno())}")

    ptrace(SEIZE)
    ptrace(INTERRUPT)
    os.waitpid(pid, WALL)
    try:
        yield
    finally:
        ptrace(DETACH)


@ray.remote(num_cpus=0, max_retries=0)
def runs_once(gate, log):
    with open(log, "a") as file:
        file.write("ran\n")
    gate.wait()
    return ray.get_runtime_context().get_node_id()


def at(node):
    from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def test_a_starved_daemon_is_late_while_a_stopped_one_is_dead_and_nothing_of_the_late_one_is_lost(grow, gate, tmp_path):
    cluster = grow(*[PATIENT] * 5)
    head, second, _, stopped, late = cluster.list_all_nodes()
    until(lambda: replicated(head, 3, 5), "any two voters may go")
    log = tmp_path / "log"
    task = runs_once.options(scheduling_strategy=at(late)).remote(gate, str(log))
    gate.wait_arrived()
    actor = Counter.options(scheduling_strategy=at(late)).remote()
    assert ray.get(actor.add.remote(), timeout=20) == 1
    with no_turns(late.pid):
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            until(lambda: states(head)[stopped.node_id] == "dead", "a process that does not answer is declared dead")
            assert states(head)[late.node_id] == states(second)[late.node_id] == "alive", "both were silent as long"
            assert ray.get(actor.add.remote(), timeout=20) == 2, "its workers go on, and are called by their callers"
            another = cluster.add_node(**PATIENT)
            until(lambda: states(head).get(another.node_id) == "alive", "the others decide without it")
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
    gate.open()
    assert ray.get(task, timeout=20) == late.node_id
    assert log.read_text().split() == ["ran"], "it ran once"
    assert ray.get(actor.add.remote(), timeout=20) == 3
    until(lambda: not stopped.alive(), "the other one learns that it was declared dead")
    assert states(late)[late.node_id] == "alive" and ask(late, "gcs")["trouble"] == ""


def test_a_daemon_that_gets_no_turn_for_very_long_is_taken_for_stuck(grow):
    quick = {"num_cpus": 1, "_system_config": {"node_timeout_s": 0.1}}
    cluster = grow(quick, quick)
    head, stuck = cluster.list_all_nodes()
    with no_turns(stuck.pid):
        until(lambda: states(head)[stuck.node_id] == "dead", "20 time-outs are too many")
    until(lambda: not stuck.alive(), "it learns so and ends")


def test_the_error_of_a_driver_whose_node_was_killed_says_how_it_ended(fresh):
    ray.init(num_cpus=1)
    pid = ray.nodes()[0]["pid"]
    actor = Counter.remote()
    assert ray.get(actor.add.remote()) == 1
    fresh.watch()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.LocalRayletDiedError, match=f"pid={pid}.*SIGKILL") as raised:
        while True:
            ray.get(actor.add.remote(), timeout=20)
    assert raised.value.signal == signal.SIGKILL


def test_workers_give_way_to_their_daemon(fresh):
    ray.init(num_cpus=1)

    @ray.remote
    def claims():
        with open("/proc/self/oom_score_adj") as file:
            return os.getpriority(os.PRIO_PROCESS, 0), int(file.read())

    fresh.watch()
    daemon = ray.nodes()[0]["pid"]
    nice, oom = ray.get(claims.remote())
    assert nice > os.getpriority(os.PRIO_PROCESS, daemon)
    with open(f"/proc/{daemon}/oom_score_adj") as file:
        assert oom > int(file.read()), "when memory runs out, a worker ends first"


FULL = """
import os, zray as ray
ray.init(num_cpus=1, object_store_memory=4 << 20)
@ray.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()
first = Actor.remote()
ray.get(first.pid.remote())
with open("/dev/shm/filler", "wb") as file:
    size = 1 << 22
    while size >= 4096:
        try:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
        except OSError:
            size //= 2
actors = [Actor.remote() for _ in range(5)]
refs = [actor.pid.remote() for actor in actors]
assert ray.get(first.pid.remote(), timeout=20), "the node serves on"
log = os.path.join(os.path.dirname(ray.nodes()[0]["RayletSocketName"].removeprefix("ipc://")), "logs", "node.log")
while "no room in /dev/shm" not in open(log).read():
    assert ray.get(first.pid.remote(), timeout=20)
os.unlink("/dev/shm/filler")
print(len(set(ray.get(refs, timeout=30))))
"""


def test_a_node_without_room_in_shared_memory_for_another_worker_serves_on_and_starts_it_later(tmp_path):
    """In a mount namespace of its own, where shared memory is small."""
    inside = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=16m tmpfs /dev/shm && exec \"$@\"", "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run([*inside, sys.executable, "-c", FULL], env=environment(), capture_output=True, text=True,
                          timeout=100)
    assert done.stdout.split() == ["5"], done.stderr
