"""Unfinished tasks whose owner dies with its whole node."""

from __future__ import annotations

import pytest

from tests.e2e.target import exceptions, ray
from tests.e2e.test_unfinished_work import Owner

pytestmark = pytest.mark.zray_only


def test_a_node_with_the_owner_and_its_runs_may_be_killed(grow, tmp_path):
    waiting = tmp_path / "gate"
    node = {"num_cpus": 2, "resources": {"w": 1}}
    cluster = grow({"num_cpus": 2}, node)
    owner = Owner.options(resources={"w": 1}).remote()
    refs = ray.get(owner.chain.remote(str(waiting), None, 3)) + ray.get(owner.large.remote(str(waiting)))
    small, (array,) = refs[:3], refs[3:]
    cluster.worker_nodes[0].kill()
    waiting.touch()
    assert ray.get(small, timeout=60) == [1, 2, 3]
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="its first owner died"):  # its large argument
        ray.get(array, timeout=60)
