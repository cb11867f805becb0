"""The message tables of a worker process: product and simulator handle each message by the same method."""

from __future__ import annotations

from tests.fakes.worker import Rig
from zray.sim import cluster as cluster_module
from zray.sim.core import Core
from zray.sim.plan import Plan
from zray.sim.worker import SimWorker
from zray.worker.machine import WorkerMachine


def test_product_and_simulator_handle_what_a_worker_gets_by_the_same_methods():
    rig = Rig()
    product = rig.rt.handlers
    rig.close()
    cluster = cluster_module.SimCluster(1, Plan(drivers=0))
    cluster.net.run_until(0.5)
    node = next(iter(cluster.nodes.values()))
    simulated = SimWorker(cluster.around_cores, node, node.incarnation[:4] + b"wrkr", 77)
    driver = Core(cluster.around_cores, node, node.incarnation[:4] + b"drvr", 78)
    machine = simulated.work.handlers
    assert product.keys() == machine.keys() == simulated.machine.handlers.keys() - driver.machine.handlers.keys()
    for code in machine:
        handler = simulated.machine.handlers[code]
        assert product[code].__func__ is handler.__func__, code
        assert isinstance(product[code].__self__, WorkerMachine) and handler.__self__ is simulated.work
    shared = simulated.machine.handlers.keys() & driver.machine.handlers.keys()
    assert shared == driver.machine.handlers.keys(), "a worker handles all that a core process does"
