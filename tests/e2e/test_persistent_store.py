"""A cluster whose control store has a directory is killed as a whole, and starts again with what it knew."""

from __future__ import annotations

import os

import pytest

from tests.e2e.nodes import clusters
from tests.e2e.target import ray, until
from zray.experimental import internal_kv as kv
from zray.util.state import list_actors

pytestmark = pytest.mark.zray_only


class Counter:
    def __init__(self, start):
        self.count = start

    def add(self):
        self.count += 1
        return self.count


def test_after_all_was_killed_the_state_is_there_and_what_may_restart_does(session_root, tmp_path):
    node = {"num_cpus": 2, "gcs_dir": str(tmp_path / "gcs")}
    detached = {"lifetime": "detached", "num_cpus": 0}
    kind = ray.remote(Counter)
    with clusters(session_root) as start:
        cluster = start(node)
        kv._internal_kv_put(b"key", b"value")
        mortal = kind.options(name="mortal", **detached).remote(0)
        again = kind.options(name="again", max_restarts=-1, max_task_retries=-1, **detached).remote(10)
        folder = {"checkpoint_interval": 1, "checkpoint_dir": str(tmp_path / "saved")}
        saved = kind.options(name="saved", max_restarts=-1, **folder, **detached).remote(20)
        group = ray.util.placement_group([{"CPU": 1}], name="room", lifetime="detached")
        ray.get([actor.add.remote() for actor in (mortal, again, saved) for _ in range(3)])
        ray.get(group.ready())
        # Calls after the last checkpoint end with all processes: the checkpoint of the third call must be there.
        until(lambda: max(os.listdir(tmp_path / "saved"), default="").endswith("-0000000000000003"))
        kv._internal_kv_put(b"later", b"value")
        ray.shutdown()
        cluster.head_node.kill()
    with clusters(session_root) as start:
        start(node)
        assert kv._internal_kv_get(b"key") == b"value"
        assert ray.get(ray.get_actor("again").add.remote()) == 11
        assert ray.get(ray.get_actor("saved").add.remote()) == 24
        with pytest.raises(ValueError, match="Failed to look up actor with name 'mortal'"):
            ray.get_actor("mortal")
        assert ray.get(kind.options(name="mortal", **detached).remote(0).add.remote()) == 1, "its name is free"
        room = ray.util.get_placement_group("room")
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(room)
        assert ray.get(kind.options(scheduling_strategy=strategy).remote(5).add.remote()) == 6
        (died,) = [row for row in list_actors(detail=True) if row.state == "DEAD"]
        assert died.name == "mortal" and "the cluster was restarted" in str(died.death_cause)
