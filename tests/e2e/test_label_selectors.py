"""Label selectors and their fallbacks choose nodes of a real cluster."""

from __future__ import annotations

import pytest

from tests.e2e.target import Counts, ray

pytestmark = pytest.mark.zray_only


def test_labels_choose_nodes_and_fallbacks_are_tried_in_turn(grow):
    grow({"num_cpus": 1, "labels": {"zone": "a"}}, {"num_cpus": 1, "labels": {"zone": "b"}}, {"num_cpus": 1})
    zones = {row["NodeID"]: row["Labels"].get("zone", "") for row in ray.nodes()}

    @ray.remote(num_cpus=1)
    def where():
        return zones[ray.get_runtime_context().get_node_id()]

    def runs(selector, *fallbacks, task=where):
        return ray.get(task.options(label_selector=selector, fallback_strategy=[
            {"label_selector": one} for one in fallbacks]).remote())

    assert runs({"zone": "in(b, c)"}) == "b" and runs({"zone": "!in(a, b)"}) == "" and runs({"zone": "a"}) == "a"
    assert runs({"zone": "c"}, {"zone": "d"}, {"zone": "b"}) == "b"
    holder = ray.remote(Counts).options(num_cpus=1, label_selector={"zone": "a"}).remote()
    ray.get(holder.add.remote())
    assert runs({"zone": "a"}, {"zone": "b"}) == "b", "the first has no room"
    with pytest.raises(ray.exceptions.GetTimeoutError, match="zone"):
        ray.get(where.options(label_selector={"zone": "c"}, fallback_strategy=[
            {"label_selector": {"zone": "d"}}]).remote(), timeout=0.3)
