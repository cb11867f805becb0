"""The messages that a daemon can get have the same handler in the product and in the simulator.

Both tables are made by DaemonMachine of the same parts; only what the shells take themselves may differ.
"""

from __future__ import annotations

from tests.oracles.store_harness import Harness
from zray.sim.cluster import SimCluster
from zray.sim.plan import Plan
from zray.wire import messages as m

# The stores of a simulated cluster are one: nothing is granted, restored, kept, pulled or copied there.
ONLY_IN_THE_PRODUCT = {
    "Chunk", "CopyGone", "CopyMade", "DropCopies", "KeepCopies", "PullChunk", "PullElsewhere", "PullEnd", "PullObject",
    "PullRefused", "PullWait", "StoreKeep", "StorePull", "StoreRestore", "StoreSurrender", "StoreWant"}


def test_a_simulated_daemon_handles_every_message_as_the_product_does_but_those_of_the_object_store():
    cluster = SimCluster(1, Plan(nodes=2, drivers=1, steps=1))
    cluster.net.run_until(1.0)
    node = cluster.serving()[1]
    parts = {**node.machine.handlers, **node.gcs.handlers, **node.core.member.handlers}
    simulated = {**node.machine.handlers, **node.core.handlers}
    harness = Harness()
    try:
        product = {**parts, **harness.service.handlers}
    finally:
        harness.close()
    assert all(simulated[code] == handler for code, handler in parts.items()), "a shell takes what is a part's"
    assert simulated.keys() - parts.keys() == {m.StoreFree.CODE, m.StoreLocate.CODE}
    assert not simulated.keys() - product.keys()
    assert {m.BY_CODE[code].__name__ for code in product.keys() - simulated.keys()} == ONLY_IN_THE_PRODUCT
