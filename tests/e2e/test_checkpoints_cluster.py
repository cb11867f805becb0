"""Actors with checkpoints in a cluster: nodes die with their actors, and homes without them."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.target import exceptions, ray, until
from tests.e2e.test_checkpoints import Ledger, kill, saved
from zray.base.checkpoint_names import CHECKPOINT_FOLDER, PARTIAL

pytestmark = pytest.mark.zray_only


X = {"num_cpus": 1, "resources": {"x": 2}}
NEEDS_X = {"num_cpus": 0, "resources": {"x": 0.5}}


def stored_start(session_dir):
    """The number of calls in the checkpoint there that the next life begins with: its home has removed the older ones.

    0 while there are several, or none.
    """
    found = [name for name in os.listdir(os.path.join(session_dir, CHECKPOINT_FOLDER)) if not name.endswith(PARTIAL)]
    return int(found[0].rpartition("-")[2]) if len(found) == 1 else 0


def home_of(actor, cluster):
    """The node on which the actor lives."""
    node_id = ray.get(actor.node.remote())
    return next(node for node in cluster.list_all_nodes() if node.node_id == node_id)


@pytest.mark.parametrize("folder", [False, True])
def test_an_actor_moves_with_its_state_when_its_node_dies(grow, tmp_path, folder):
    more = {"checkpoint_dir": tmp_path} if folder else {}
    cluster = grow({"num_cpus": 1}, X, X)
    actor = saved(checkpoint_interval=10, **NEEDS_X, **more).remote()
    ray.get([actor.add.remote("x" * 100_000 + str(i)) for i in range(45)])
    victim = home_of(actor, cluster)
    os.kill(victim.pid, signal.SIGKILL)
    assert ray.get(actor.add.remote("last")) == 46
    until(lambda: ray.get(actor.node.remote()) != victim.node_id)  # its process ends some time after its node
    assert ray.get(actor.all.remote())[:-1] == ["x" * 100_000 + str(i) for i in range(45)]


def test_a_large_result_that_is_lost_with_its_node_is_not_made_by_a_second_call(grow):
    class Wide(Ledger):
        def large(self, entry):
            self.entries.append(entry)
            return bytes([entry]) * 200_000

        def copied(self, entry):
            return ray.put(self.large(entry), durability=2)

        def items(self, count):
            for entry in range(count):
                yield self.large(entry)

    cluster = grow({"num_cpus": 1}, X, X)
    actor = saved(Wide, checkpoint_interval=2, **NEEDS_X).remote()
    large, copied = [actor.large.remote(i) for i in range(3)], [actor.copied.remote(i) for i in range(3, 6)]
    items = list(actor.items.options(num_returns="streaming").remote(3))
    ray.wait(large + copied, num_returns=6, fetch_local=False)
    copied = ray.get(copied)
    os.kill(home_of(actor, cluster).pid, signal.SIGKILL)
    for ref in large + items:
        with pytest.raises(exceptions.ObjectReconstructionFailedError, match="counts once"):
            ray.get(ref)
    assert [value[0] for value in ray.get(copied)] == [3, 4, 5]
    assert ray.get(actor.all.remote()) == [0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_a_detached_actor_keeps_its_state_when_its_home_dies_and_when_its_process_dies_later(grow):
    cluster = grow(X, {"num_cpus": 1}, X, connect=1)
    first, home, _ = cluster.list_all_nodes()
    actor = saved(checkpoint_interval=1, **NEEDS_X).options(name="kept", lifetime="detached").remote()
    ray.get([actor.add.remote(i) for i in range(25)])
    place = home_of(actor, cluster)
    ray.shutdown()
    os.kill(home.pid, signal.SIGKILL)
    ray.init(address=first.session_dir, namespace="test")
    found = ray.get_actor("kept")
    assert ray.get(found.add.remote(25)) == 26
    until(lambda: stored_start(place.session_dir) >= 26)
    kill(found)
    assert ray.get(found.all.remote()) == list(range(26))
    ray.kill(found)
