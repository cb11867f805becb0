"""A node that decides with compiled kernels does what one with their plain-Python twin does."""

from __future__ import annotations

import pytest

from tests.e2e.target import ray, until, waits_because
from zray.handles.connection import connected


@pytest.mark.parametrize("compiled", [False, True])
def test_a_node_runs_tasks_actors_and_custom_resources_with_either_form_of_the_kernels(fresh, compiled):
    ray.init(num_cpus=2, resources={"oven": 1.5}, _system_config={"kernels_at_start": compiled})

    @ray.remote(num_cpus=0.5, resources={"oven": 0.5})
    def bake(x):
        return x + 1

    @ray.remote(resources={"oven": 1})
    class Baker:
        def bake(self):
            return ray.get_runtime_context().get_assigned_resources()

    assert ray.get([bake.remote(i) for i in range(20)]) == list(range(1, 21))
    baker = Baker.remote()
    assert ray.get(baker.bake.remote())["oven"] == 1
    until(lambda: ray.available_resources().get("oven") == pytest.approx(0.5), "idle leases are given back")
    assert ray.cluster_resources()["oven"] == 1.5
    assert connected().query("stats")["stats"]["kernels"] == ("compiled" if compiled else "plain")
    never = bake.options(resources={"oven": 5}).remote(1)
    waits_because(never, "oven")
