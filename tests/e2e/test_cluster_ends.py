"""Nodes that are killed, stopped, cut off, or leave; the first node too; drivers that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.leaks import only_logs
from tests.e2e.nodes import ask, ended, replicated, states
from tests.e2e.scripts import environment, zray
from tests.e2e.target import Counts, ray, until

pytestmark = pytest.mark.zray_only

X = {"x": 0.5}

Counter = ray.remote(num_cpus=0, resources=X)(Counts)


@ray.remote(num_cpus=0, resources=X)
def stay(gate, log):
    """Say where it runs, wait for the gate."""
    with open(log, "a") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\n")
    gate.wait()
    return ray.get_runtime_context().get_node_id()


def prefer(node, soft=True):
    from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.node_id, soft=soft)


# ------------------------------------------------------------ death


def test_a_killed_node_is_seen_at_once_its_tasks_run_again_its_actors_move(grow, gate, tmp_path):
    patient = {"_system_config": {"node_timeout_s": 60.0}}  # so it is not by its silence that they know
    cluster = grow({"num_cpus": 1} | patient, *[{"num_cpus": 1, "resources": {"x": 2}} | patient] * 2)
    head, victim, other = cluster.list_all_nodes()
    log, once_log = tmp_path / "log", tmp_path / "once"
    log.touch(), once_log.touch()
    moving = Counter.options(max_restarts=1, max_task_retries=1, scheduling_strategy=prefer(victim)).remote()
    mortal = Counter.options(scheduling_strategy=prefer(victim)).remote()
    pids = [pid for _, pid in ray.get([moving.where.remote(), mortal.where.remote()])]
    again = stay.options(scheduling_strategy=prefer(victim)).remote(gate, str(log))
    once = stay.options(scheduling_strategy=prefer(victim), max_retries=0).remote(gate, str(once_log))
    gate.wait_arrived(2)
    victim.kill()
    for node in (head, other):
        until(lambda node=node: states(node)[victim.node_id] == "dead", "the others see it")
    until(lambda: all(map(ended, pids)), "its workers die with it")
    gate.open()
    assert ray.get(again, timeout=20) == other.node_id
    assert log.read_text().split() == [victim.node_id, other.node_id]
    with pytest.raises(ray.exceptions.WorkerCrashedError, match="node is gone"):
        ray.get(once, timeout=20)
    assert once_log.read_text().split() == [victim.node_id], "a task that may run once ran once"
    assert ray.get(moving.add.remote(), timeout=20) == 1, "it began anew"
    assert ray.get(moving.where.remote())[0] == other.node_id
    with pytest.raises(ray.exceptions.ActorDiedError, match="node is gone"):
        ray.get(mortal.add.remote(), timeout=20)
    assert ray.cluster_resources()["x"] == 2


def stop_until_declared_dead(node, by):
    os.kill(node.pid, signal.SIGSTOP)
    try:
        until(lambda: states(by)[node.node_id] == "dead", "it is declared dead")
    finally:
        os.kill(node.pid, signal.SIGCONT)


def test_a_stopped_node_is_declared_dead_and_ends_itself_when_it_goes_on(grow):
    cluster = grow({"num_cpus": 1, "_system_config": {"node_timeout_s": 0.6}}, {"num_cpus": 1, "resources": {"x": 1}})
    head, other = cluster.list_all_nodes()
    actor = Counter.remote()
    _, pid = ray.get(actor.where.remote())
    stop_until_declared_dead(other, head)
    until(lambda: not other.alive(), "it learns so and ends")
    until(lambda: ended(pid) and only_logs(other.session_dir), "and leaves nothing")
    with pytest.raises(ray.exceptions.ActorDiedError, match="unheard of"):
        ray.get(actor.add.remote(), timeout=10)


def test_without_a_majority_errors_and_status_name_the_voters_that_are_missing(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1})
    nodes = cluster.list_all_nodes()
    until(lambda: replicated(nodes[0], 3, 3))

    @ray.remote
    class Actor:
        def method(self):
            return 1

    for node in nodes[1:]:
        os.kill(node.pid, signal.SIGSTOP)
    try:
        until(lambda: ask(nodes[0], "gcs")["trouble"])
        actor = Actor.remote()
        with pytest.raises(ray.exceptions.GetTimeoutError) as raised:
            ray.get(actor.method.remote(), timeout=2)
        for node in nodes[1:]:
            assert "no majority" in str(raised.value) and node.node_id[:8] in str(raised.value)
        said = zray("status", "--address", nodes[0].session_dir, COLUMNS="1000")
        assert any("no majority" in line and nodes[1].node_id[:8] in line for line in said.splitlines())
    finally:
        for node in nodes[1:]:
            os.kill(node.pid, signal.SIGCONT)
    assert ray.get(actor.method.remote(), timeout=30) == 1


def test_without_authentication_a_stopped_node_is_fenced_as_well(grow):
    cluster = grow({"num_cpus": 1, "insecure": True, "_system_config": {"node_timeout_s": 0.6}},
                   {"num_cpus": 1, "insecure": True, "resources": {"x": 1}})
    head, other = cluster.list_all_nodes()
    assert ray.get(Counter.remote().add.remote(), timeout=20) == 1
    stop_until_declared_dead(other, head)
    until(lambda: not other.alive(), "it learns so and ends")


def test_when_the_first_node_is_killed_the_other_two_go_on_and_take_in_more(grow, tmp_path):
    nodes = [{"num_cpus": 1}, {"num_cpus": 1, "resources": {"x": 2}}, {"num_cpus": 1}]
    cluster = grow(*nodes, connect=None)
    first, second, third = cluster.list_all_nodes()
    until(lambda: replicated(second, 3, 3), "the control store has three replicas and voters")
    program = f"""
import zray as ray
ray.init(address={first.session_dir!r}, namespace="test")
@ray.remote(num_cpus=0, resources={{"x": 0.1}})
class Till:
    def __init__(self):
        self.sum = 0
    def add(self, x):
        self.sum += x
        return self.sum
till = Till.options(name="till", lifetime="detached").remote()
ray.get(till.add.remote(5))
"""
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True, timeout=60)
    cluster.remove_node(first, allow_graceful=False)
    until(lambda: states(third)[first.node_id] == "dead", "they see it")
    ray.init(address=cluster.address, namespace="test")
    till = ray.get_actor("till")  # its home was the first node
    assert ray.get(till.add.remote(2), timeout=20) == 7, "it was adopted with its state"
    fourth = cluster.add_node(num_cpus=1, resources={"y": 1})
    cluster.wait_for_nodes()
    counter = Counter.options(resources={"y": 1}).remote()
    assert ray.get(counter.where.remote(), timeout=20)[0] == fourth.node_id
    until(lambda: replicated(third, 3, 3), "and the control store is whole again")
    ray.kill(till)


def test_work_bound_to_a_node_fails_when_that_node_dies(grow, gate, tmp_path):
    cluster = grow({"num_cpus": 1, "resources": {"x": 1}}, {"num_cpus": 1, "resources": {"x": 1}})
    head, victim = cluster.list_all_nodes()
    there = {"scheduling_strategy": prefer(victim, soft=False)}
    log = tmp_path / "log"
    runs = stay.options(**there, resources={"x": 1}).remote(gate, str(log))
    gate.wait_arrived()
    queued = stay.options(**there, resources={"x": 1}).remote(gate, str(log))
    actor = Counter.options(**there, max_restarts=-1, resources={"x": 1}).remote()
    call = actor.add.remote()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get([queued, call], timeout=0.2)
    cluster.remove_node(victim, allow_graceful=False)
    for ref in (runs, queued, stay.options(**there).remote(gate, str(log))):
        with pytest.raises(ray.exceptions.TaskUnschedulableError, match=victim.node_id):
            ray.get(ref, timeout=20)
    for ref in (call, Counter.options(**there).remote().add.remote()):
        with pytest.raises(ray.exceptions.ActorUnschedulableError, match=victim.node_id):
            ray.get(ref, timeout=20)
    gate.open()
    soft = stay.options(scheduling_strategy=prefer(victim)).remote(gate, str(log))
    assert ray.get(soft, timeout=20) == head.node_id


# ------------------------------------------------------------ leaving


def test_a_node_that_leaves_finishes_what_it_runs_and_its_row_says_left(grow, gate, tmp_path):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"x": 1}})
    head, other = cluster.list_all_nodes()
    log = tmp_path / "log"
    ref = stay.options(max_retries=0).remote(gate, str(log))
    gate.wait_arrived()
    os.kill(other.pid, signal.SIGTERM)
    until(lambda: states(head)[other.node_id] == "draining", "it says that it leaves")
    late = stay.remote(gate, str(log))
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(late, timeout=0.2)
    gate.open()
    assert ray.get(ref, timeout=20) == other.node_id
    until(lambda: states(head)[other.node_id] == "left", "it has left")
    until(lambda: not other.alive(), "and is gone")
    cluster.remove_node(other)
    third = cluster.add_node(num_cpus=1, resources={"x": 1})
    assert ray.get(late, timeout=20) == third.node_id


def test_a_node_that_leaves_hands_over_the_objects_that_only_it_has(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"x": 1}}, {"num_cpus": 1, "resources": {"x": 1}})
    head, leaver, heir = cluster.list_all_nodes()
    size = 5_000_000

    @ray.remote(num_cpus=0, max_retries=0)
    def make(byte):
        return bytes([byte]) * size

    @ray.remote(num_cpus=0, resources=X)
    class Keeper:
        def put(self, byte):
            return [ray.put(bytes([byte]) * size)]

    there = {"scheduling_strategy": prefer(leaver, soft=False)}
    results = [make.options(**there).remote(byte) for byte in range(4)]
    keeper = Keeper.options(**there).remote()
    [put] = ray.get(keeper.put.remote(9), timeout=20)
    ray.wait([*results, put], num_returns=5, timeout=20, fetch_local=False)
    cluster.remove_node(leaver)
    assert states(head)[leaver.node_id] == "left"
    assert ray.get(results[:2], timeout=20) == [bytes([byte]) * size for byte in range(2)]
    cluster.remove_node(heir)  # what it was given it gives on
    assert ray.get(results, timeout=20) == [bytes([byte]) * size for byte in range(4)]
    assert ray.get(put, timeout=20) == bytes([9]) * size, "though its owner has left"
    del results
    until(lambda: ask(head, "store")["store"]["used"] < 2 * size, "what their owner freed is gone")


def test_remove_node_is_a_clean_leave_and_a_whole_cluster_may_leave_at_once(grow):
    cluster = grow(*[{"num_cpus": 1}] * 4, connect=None)
    first = cluster.head_node
    leaver = cluster.worker_nodes[0]
    cluster.remove_node(leaver)
    until(lambda: states(first)[leaver.node_id] == "left", "it left")
    nodes = cluster.list_all_nodes()
    for node in nodes:
        os.kill(node.pid, signal.SIGTERM)
    until(lambda: all(ended(node.pid) for node in nodes), "all end")
    assert not [node.session_dir for node in nodes if not only_logs(node.session_dir)]


# ------------------------------------------------------------ drivers


DRIVER = """
import sys, zray as ray
ray.init(address=sys.argv[1], namespace="test")
@ray.remote(num_cpus=0, resources={"x": 0.1})
class Here:
    def pid(self):
        import os
        return os.getpid()
@ray.remote(num_cpus=0, resources={"x": 0.1})
def forever(path):
    import os, time
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)
kept = Here.options(name="kept", lifetime="detached").remote()
mine = Here.options(name="mine").remote()
ref = forever.remote(sys.argv[2])
print(ray.get(kept.pid.remote()), ray.get(mine.pid.remote()), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", [pytest.param("exit", marks=pytest.mark.slow), "kill -9"])
def test_the_end_of_a_driver_ends_its_processes_on_all_nodes_but_detached_actors(grow, tmp_path, how):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"x": 1}}, connect=None)
    mark = tmp_path / "mark"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, cluster.address, str(mark)], env=environment(), text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        kept, mine = map(int, driver.stdout.readline().split())
        until(lambda: mark.exists() and mark.read_text(), "the task runs")
        task = int(mark.read_text())
        if how == "exit":
            driver.stdin.write("go\n")
            driver.stdin.flush()
        else:
            driver.kill()
        until(lambda: ended(mine) and ended(task), "its processes on the other node end")
        driver.wait(10)
    finally:
        driver.kill()
        driver.communicate()
    ray.init(address=cluster.worker_nodes[0].session_dir, namespace="test")
    assert ray.get(ray.get_actor("kept").pid.remote(), timeout=10) == kept
    with pytest.raises(ValueError, match="mine"):
        ray.get_actor("mine")
    ray.kill(ray.get_actor("kept"))
