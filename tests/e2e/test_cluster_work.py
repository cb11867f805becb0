"""What a driver sees of a cluster of two nodes: work, values, errors, output and processes of the other one."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time

import pytest

from tests.e2e.nodes import clusters, ended
from tests.e2e.target import Counts, ray, until

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.zray_only

THERE = {"x": 0.5}  # only the second node has any
HERE, OTHER = "zone-a", "zone-b"


@pytest.fixture(scope="module")
def pair(session_root):
    """Two nodes and a driver on the first: (node id of the first, of the second)."""
    with clusters(session_root) as start:
        cluster = start({"num_cpus": 1, "labels": {"zone": HERE}},
                        {"num_cpus": 2, "resources": {"x": 4}, "labels": {"zone": OTHER}})
        yield cluster.list_all_nodes()


@ray.remote
def where():
    return ray.get_runtime_context().get_node_id()


@ray.remote
class Counter(Counts):
    def fail(self):
        raise KeyError("lost key")


def running(gate, **options):
    """A task that runs on the other node until the gate opens: (ref, its pid)."""
    path = gate.path

    @ray.remote(resources=THERE, **options)
    def run(name):
        with open(name + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.rename(name + ".part", name)
        while not os.path.exists(path):
            time.sleep(0.005)

    mark = f"{path}.{time.monotonic_ns()}"
    ref = run.remote(mark)
    until(lambda: os.path.exists(mark), "the task runs")
    with open(mark) as file:
        return ref, int(file.read())


# ------------------------------------------------------------ nodes and resources


def test_nodes_and_resources_are_those_of_the_whole_cluster(pair):
    head, other = pair
    rows = {row["NodeID"]: row for row in ray.nodes()}
    assert rows.keys() == {head.node_id, other.node_id}
    assert all(row["Alive"] for row in rows.values())
    assert rows[other.node_id]["Resources"]["x"] == 4 and rows[head.node_id]["Labels"]["zone"] == HERE
    total = ray.cluster_resources()
    assert (total["CPU"], total["x"]) == (3, 4)


def test_what_a_task_on_the_other_node_uses_is_not_available(pair, gate):
    ref, _ = running(gate, num_cpus=1)
    until(lambda: ray.available_resources().get("x") == 3.5, "the node told what it gave out")
    gate.open()
    ray.get(ref)
    until(lambda: ray.available_resources().get("x") == 4, "and that it is back")


# ------------------------------------------------------------ tasks and placement


def test_a_custom_resource_leads_to_the_node_that_has_it(pair):
    assert ray.get([where.options(resources=THERE).remote() for _ in range(8)]) == [pair[1].node_id] * 8


@ray.remote
def where_held(gate):
    gate.wait()
    return ray.get_runtime_context().get_node_id()


def test_tasks_that_run_long_use_the_cpus_of_both_nodes(pair, gate):
    refs = [where_held.remote(gate) for _ in range(3)]
    gate.wait_arrived(3)  # all at once: that takes the one CPU here and the two there
    gate.open()
    head, other = pair
    assert sorted(ray.get(refs)) == sorted([head.node_id, other.node_id, other.node_id])


def test_spread_uses_both_nodes(pair, gate):
    until(lambda: ray.available_resources().get("CPU") == 3, "leases of earlier tests are given back")
    refs = [where_held.options(scheduling_strategy="SPREAD").remote(gate) for _ in range(2)]
    gate.wait_arrived(2)
    gate.open()
    assert set(ray.get(refs)) == {node.node_id for node in pair}


def test_actors_that_need_nothing_are_spread_as_well(pair):
    @ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
    class Somewhere:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    actors = [Somewhere.remote() for _ in range(12)]
    nodes = ray.get([actor.node.remote() for actor in actors])
    assert all(nodes.count(node.node_id) >= 4 for node in pair)


def test_affinity_and_labels_choose_the_node(pair):
    from zray.util.scheduling_strategies import (
        DoesNotExist,
        In,
        NodeAffinitySchedulingStrategy,
        NodeLabelSchedulingStrategy,
        NotIn,
    )

    head, other = pair
    to = NodeAffinitySchedulingStrategy
    nowhere = "ab" * 28
    wanted = [
        (to(other.node_id, soft=False), {other.node_id}), (to(head.node_id, soft=False), {head.node_id}),
        (to(other.node_id, soft=True), {other.node_id}), (to(nowhere, soft=True), {head.node_id, other.node_id}),
        (NodeLabelSchedulingStrategy(hard={"zone": In(OTHER)}), {other.node_id}),
        (NodeLabelSchedulingStrategy(hard={"zone": NotIn(OTHER)}), {head.node_id}),
        (NodeLabelSchedulingStrategy(hard={"rack": DoesNotExist()}, soft={"zone": In(OTHER)}), {other.node_id}),
    ]
    # Without a CPU each: leases that idle must not make the preferred node look full.
    found = ray.get([where.options(scheduling_strategy=one, num_cpus=0).remote() for one, _ in wanted], timeout=30)
    assert [node in nodes for node, (_, nodes) in zip(found, wanted, strict=True)] == [True] * len(wanted)
    assert ray.get(where.options(label_selector={"zone": OTHER}).remote()) == other.node_id


def test_a_hard_affinity_to_no_node_of_the_cluster_fails_and_says_why(pair):
    from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nowhere = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match=f"{'ab' * 28}, has never been in this cluster"):
        ray.get(where.options(scheduling_strategy=nowhere).remote(), timeout=30)
    with pytest.raises(ray.exceptions.ActorUnschedulableError, match="soft=True"):
        ray.get(Counter.options(scheduling_strategy=nowhere).remote().add.remote(), timeout=30)


def test_nested_tasks_run_on_either_node_and_their_references_travel(pair):
    @ray.remote(resources=THERE)
    def parent(block):
        inner = [where.remote() for _ in range(3)]
        return ray.get(inner), ray.put(block * 2)

    block = np.ones(300_000)
    nodes, ref = ray.get(parent.remote(block))
    assert set(nodes) <= {node.node_id for node in pair}
    assert ray.get(ref).sum() == 600_000


def test_big_values_cross_between_nodes_both_ways_and_once_more(pair):
    @ray.remote(resources=THERE)
    def double(x):
        return x * 2

    ref = ray.put(np.arange(500_000))
    there = double.remote(ref)
    again = double.remote(there)  # its argument lies on the other node already
    assert ray.get(again)[-1] == 4 * 499_999
    assert ray.get(there)[-1] == 2 * 499_999
    assert not ray.get(ref).flags.writeable


# ------------------------------------------------------------ actors


def test_wait_brings_what_is_ready_unless_it_is_not_to(pair):
    here, there = (node.node_id for node in pair)

    @ray.remote(resources=THERE)
    def make(value):
        return np.full(1_000_000, value, dtype=np.uint8)

    def nodes(ref):
        return set(ray.experimental.get_object_locations([ref])[ref]["node_ids"])

    refs = [make.remote(i) for i in range(3)]
    for ref in refs:
        ready, _ = ray.wait([ref], fetch_local=False, timeout=60)
        assert ready == [ref] and nodes(ref) == {there}
    assert ray.wait(refs[:2], num_returns=2, timeout=60) == (refs[:2], [])
    until(lambda: nodes(refs[0]) == nodes(refs[1]) == {here, there}, "both are on this node")
    until(lambda: ray.wait([refs[2]], timeout=0)[0] == [refs[2]], "it comes while wait only looks")
    assert [int(array[0]) for array in ray.get(refs)] == [0, 1, 2]


def test_actors_of_the_other_node_keep_state_have_names_and_are_called_from_both(pair):
    actor = Counter.options(name="till", resources=THERE, num_cpus=0).remote()
    assert ray.get(actor.add.remote()) == 1
    assert ray.get(actor.where.remote())[0] == pair[1].node_id

    @ray.remote(resources=THERE)
    def call():
        return ray.get(ray.get_actor("till").add.remote())

    assert ray.get(call.remote()) == 2
    assert ray.get(ray.get_actor("till").add.remote()) == 3
    ray.kill(actor)


def test_a_killed_actor_of_the_other_node_dies_and_its_calls_say_so(pair):
    actor = Counter.options(resources=THERE, num_cpus=0).remote()
    _, pid = ray.get(actor.where.remote())
    ray.kill(actor)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.add.remote(), timeout=10)
    until(lambda: ended(pid), "its process ends")


def test_an_actor_whose_process_is_killed_there_is_restarted(pair):
    actor = Counter.options(resources=THERE, num_cpus=0, max_restarts=1, max_task_retries=1).remote()
    _, pid = ray.get(actor.where.remote())
    os.kill(pid, signal.SIGKILL)
    until(lambda: ended(pid), "it ends")
    assert ray.get(actor.add.remote(), timeout=20) == 1


# ------------------------------------------------------------ errors, output, environment


def test_errors_of_the_other_node_have_their_type_and_traceback(pair):
    @ray.remote(resources=THERE)
    def divide(x):
        return 1 / x

    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(divide.remote(0))
    assert "in divide" in str(caught.value) and isinstance(caught.value, ray.exceptions.RayTaskError)
    actor = Counter.options(resources=THERE, num_cpus=0).remote()
    with pytest.raises(KeyError, match="lost key"):
        ray.get(actor.fail.remote())


def test_output_of_workers_of_the_other_node_reaches_the_driver(pair, capfd):
    @ray.remote(resources=THERE)
    def speak():
        print("a line from afar")
        print("and an error", file=sys.stderr)

    ray.get(speak.remote())
    seen = {"out": "", "err": ""}

    def both() -> bool:
        out, err = capfd.readouterr()
        seen["out"] += out
        seen["err"] += err
        return "a line from afar" in seen["out"] and "and an error" in seen["err"]

    until(both, "both lines arrive")
    address = re.escape(ray.util.get_node_ip_address())
    assert re.search(rf"\(speak pid=\d+, ip={address}\) a line from afar", seen["out"])


def test_environment_variables_of_the_runtime_environment_are_set_there(pair):
    @ray.remote(resources=THERE, runtime_env={"env_vars": {"COLOUR": "green"}})
    def colour():
        return os.environ.get("COLOUR")

    assert ray.get(colour.remote()) == "green"


# ------------------------------------------------------------ cancel, kill


def test_a_task_of_the_other_node_is_cancelled(pair, gate):
    ref, _ = running(gate)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)


def test_a_task_of_the_other_node_is_cancelled_by_force(pair, gate):
    ref, pid = running(gate)
    ray.cancel(ref, force=True)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)
    until(lambda: ended(pid), "its worker ends")


def test_a_worker_killed_there_costs_its_task_one_attempt(pair, gate):
    ref, pid = running(gate, max_retries=0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.WorkerCrashedError, match="SIGKILL"):
        ray.get(ref, timeout=10)
    ref, pid = running(gate, max_retries=1)
    os.kill(pid, signal.SIGKILL)
    gate.open()
    assert ray.get(ref, timeout=10) is None


def break_connections() -> int:
    """Reset all TCP connections of this process; how many there were."""
    broken = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family == socket.AF_INET and connection.getpeername():
                    connection.shutdown(socket.SHUT_RDWR)
                    broken += 1
        except OSError:
            pass  # it has been closed, or it listens
    return broken


def test_connections_to_another_node_that_break_lose_no_call_and_repeat_none(pair):
    """Its caller and the actor both live, as after a stop of the one or a firewall that forgets the connection."""
    counter = Counter.options(resources=THERE).remote()
    assert ray.get(counter.add.remote()) == 1
    answers, broken = [], 0
    for _ in range(5):
        answers += [counter.add.remote() for _ in range(20)]
        broken += break_connections()
        answers += [counter.add.remote() for _ in range(20)]
        ray.get(answers[-1], timeout=60)
    assert ray.get(answers, timeout=60) == list(range(2, 202))
    assert broken >= 5



@pytest.mark.slow
def test_an_actor_on_another_node_that_is_stopped_for_longer_than_heartbeats_wait_answers_all_calls(pair):
    counter = Counter.options(resources=THERE).remote()
    _, pid = ray.get(counter.where.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        calls = [counter.add.remote() for _ in range(5)]
        ray.wait(calls, timeout=13)  # Limits.heartbeat_timeout_s is 10
    finally:
        os.kill(pid, signal.SIGCONT)
    calls += [counter.add.remote() for _ in range(5)]
    assert ray.get(calls, timeout=60) == list(range(1, 11))
