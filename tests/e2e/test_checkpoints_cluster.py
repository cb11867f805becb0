"""Actors with checkpoints in a cluster: nodes die with their actors, and homes without them."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.target import ray, until
from tests.e2e.test_checkpoints import kill, saved

pytestmark = pytest.mark.zray_only


def on(node):
    from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.node_id, soft=True)


@pytest.mark.parametrize("folder", [False, True])
def test_an_actor_moves_with_its_state_when_its_node_dies(grow, tmp_path, folder):
    more = {"checkpoint_dir": tmp_path} if folder else {}
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1})
    head, victim, _ = cluster.list_all_nodes()
    actor = saved(scheduling_strategy=on(victim), checkpoint_interval=10, **more).remote()
    ray.get([actor.add.remote("x" * 100_000 + str(i)) for i in range(45)])
    assert ray.get(actor.node.remote()) == victim.node_id
    os.kill(victim.pid, signal.SIGKILL)
    assert ray.get(actor.add.remote("last")) == 46
    assert ray.get(actor.node.remote()) != victim.node_id
    assert ray.get(actor.all.remote())[:-1] == ["x" * 100_000 + str(i) for i in range(45)]


def test_a_detached_actor_keeps_its_state_when_its_home_dies_and_when_its_process_dies_later(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}, connect=1)
    first, home, other = cluster.list_all_nodes()
    actor = saved(checkpoint_interval=1, scheduling_strategy=on(other)).options(
        name="kept", lifetime="detached").remote()
    ray.get([actor.add.remote(i) for i in range(25)])
    ray.shutdown()
    os.kill(home.pid, signal.SIGKILL)
    ray.init(address=first.session_dir, namespace="test")
    found = ray.get_actor("kept")
    assert ray.get(found.add.remote(25)) == 26
    until(lambda: [file[-2:] for file in os.listdir(os.path.join(other.session_dir, "checkpoints"))] == ["26"])
    kill(found)
    assert ray.get(found.all.remote()) == list(range(26))
    ray.kill(found)
