"""A core process is composed once: the simulator wraps the product's CoreMachine and changes no handler of it."""

from __future__ import annotations

import inspect
import re

import pytest

from zray.base.config import Config
from zray.core.machine import CoreMachine
from zray.core.runtime import Runtime
from zray.sim.cluster import SimCluster
from zray.sim.core import Core
from zray.sim.driver import SimDriver
from zray.sim.plan import Plan
from zray.sim.worker import SimWorker
from zray.store.client import StoreClient
from zray.wire import messages as m


@pytest.fixture(scope="module")
def simulated() -> list[Core]:
    """A driver and a worker in the middle of a run."""
    cluster = SimCluster(1, Plan(steps=6))
    cluster.net.run_until(0.3)
    driver = next(core for core in cluster.cores.values() if isinstance(core, SimDriver))
    worker = next(core for core in cluster.cores.values() if isinstance(core, SimWorker))
    return [driver, worker]


def of_the_product(kind: str, tmp_path) -> CoreMachine:
    runtime = Runtime(kind, b"me......", b"node....", f"ipc://{tmp_path}/node", f"ipc://{tmp_path}/me", 0, Config())
    runtime.process.closed = True
    runtime.loop.stop()
    runtime.mesh.close(0)
    return runtime.machine


def names(machine: CoreMachine) -> dict[int, str]:
    """Message code -> the function that handles it."""
    return {code: handler.__func__.__qualname__ for code, handler in machine.handlers.items()  # type: ignore[attr-defined]
            if inspect.ismethod(handler)}


def test_each_message_of_a_core_process_has_the_same_handler_in_product_and_simulator(simulated, tmp_path):
    for core in simulated:
        product = names(of_the_product(core.kind, tmp_path))
        here = names(core.machine)
        assert len(product) >= 30
        assert {code: here.get(code) for code in product} == product


def test_the_simulator_uses_the_class_itself(simulated):
    for core in simulated:
        assert type(core.machine) is CoreMachine
        own = vars(core.machine)
        overridden = {name for name, _ in inspect.getmembers(CoreMachine, inspect.isfunction) if name in own}
        assert not overridden


def test_a_message_has_one_handler(simulated):
    with pytest.raises(AssertionError, match="two handlers"):
        simulated[0].machine.take({m.TasksDone.CODE: lambda peer, message: None})


# What the simulator does not simulate: its store has no arena, and no extents are granted.
STORE = {m.StoreCollect, m.StoreGrant, m.StoreRefused, m.StoreRecall, m.StoreReclaimed, m.StoreRestored,
         m.StorePulling}


def test_only_messages_of_the_stores_arena_are_left_out():
    assert set(re.findall(r"(\w+)\.CODE", inspect.getsource(StoreClient.__init__))) == {kind.__name__ for kind in STORE}


def test_a_composition_that_forgets_a_port_fails_when_it_is_made(simulated):
    core = simulated[0]

    class Shell:
        clock = core.clock
        later = core.later

    with pytest.raises(AttributeError):
        CoreMachine(core.about, core.mesh, None, None, None, Shell(), core.dropped)  # type: ignore[arg-type]
