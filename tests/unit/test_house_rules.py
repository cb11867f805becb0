"""Rules of the code that hold themselves: pure modules, cycles of imports, class names.

What breaks a rule today is listed, and the list may only get shorter: a test fails for what is listed without need.
"""

from __future__ import annotations

import ast
from collections import defaultdict

import pytest
from tests.unit.source_tree import area, cycles, imports, modules

# ---------------------------------------------------------------- pure modules

PURE_AREAS = ["messages", "owner", "sched", "gcs", "node", "store", "transport", "worker", "sim"]
PURE_MODULES = ["zray.core.connections", "zray.core.creation", "zray.core.group_waits", "zray.core.machine",
                "zray.core.ports", "zray.core.process", "zray.core.redial", "zray.core.why"]
IMPURE = {"time", "random", "os", "socket", "threading", "zmq", "select", "signal", "subprocess", "asyncio", "datetime",
          "fcntl", "mmap", "ctypes", "multiprocessing"}
# What each shell, or what draws from a seeded generator, may import of these; the others none of them.
SHELLS: dict[str, set[str]] = {
    "gcs.disk": {"os"},
    "gcs.persistence": {"os"},
    "gcs.service": {"os"},
    "node.ask": {"os", "time"},
    "node.children": {"os", "select", "signal", "socket"},
    "node.cluster_entry": {"os", "time"},
    "node.daemon": {"os", "select", "time"},
    "node.join_secret": {"os"},
    "node.journal": {"os", "time"},
    "node.launch": {"fcntl", "os", "signal", "time"},
    "node.linux": {"ctypes", "os", "signal"},
    "node.log_file": {"os"},
    "node.object_handover": {"os"},
    "node.options": {"os", "socket"},
    "node.output": {"os"},
    "node.probes": {"socket"},
    "node.session": {"os", "time"},
    "node.supervision": {"signal"},
    "node.zygote": {"os", "random", "select", "signal", "socket", "time"},
    "sched.gossip": {"random"},
    "sched.loading": {"os", "threading"},
    "sim.driver": {"random"},
    "sim.mesh": {"zmq"},
    "sim.network": {"random"},
    "sim.plan": {"random"},
    "sim.programs": {"random"},
    "store.pins": {"ctypes", "os"},
    "store.reaper": {"os", "time"},
    "store.segment": {"mmap", "multiprocessing", "os"},
    "store.service": {"mmap", "os", "time"},
    "store.spill": {"os"},
    "transport.connections": {"zmq"},
    "transport.credentials": {"os", "threading", "time"},
    "transport.curve": {"os", "socket", "zmq"},
    "transport.faults": {"random"},
    "transport.gate": {"os", "socket", "threading", "zmq"},
    "transport.links": {"zmq"},
    "transport.loop": {"os", "signal", "threading", "time"},
    "transport.mesh": {"zmq"},
    "transport.outbound": {"time", "zmq"},
    "transport.polling": {"os", "select"},
    "transport.sockets": {"zmq"},
    "transport.tcp": {"zmq"},
    "worker.actors": {"signal", "threading", "time"},
    "worker.blas": {"ctypes"},
    "worker.cancel": {"signal", "threading"},
    "worker.coroutines": {"asyncio", "time"},
    "worker.ends": {"os", "threading"},
    "worker.events": {"os", "time"},
    "worker.executor": {"os", "threading", "time"},
    "worker.inline": {"threading"},
    "worker.main": {"os", "signal", "time"},
    "worker.maps": {"time"},
    "worker.meshloop": {"asyncio", "threading"},
    "worker.process": {"os", "time"},
    "worker.streams": {"asyncio", "time"},
}


@pytest.mark.parametrize("module",
                         [name for name in modules() if area(name) in PURE_AREAS] + PURE_MODULES)
def test_modules_of_the_machines_are_pure_unless_they_are_listed_as_shells(module):
    used = imports(module, typing=False) & IMPURE
    assert used == SHELLS.get(module.removeprefix("zray."), set()), f"{module}: change SHELLS only for a shell"


# ---------------------------------------------------------------- cycles of imports

CYCLES: list[set[str]] = [
    {"api", "cluster_context", "connection", "driver_log", "experimental.tqdm_ray", "handles", "local_mode",
     "logging_config", "runtime_context", "zray"},
    {"pickler", "serialization", "unpicklable"},
    {"sim.cluster", "sim.core", "sim.describe", "sim.disasters", "sim.driver", "sim.leftovers", "sim.liveness",
     "sim.node", "sim.oracle", "sim.stores", "sim.worker"},
]


def test_no_three_modules_import_each_other_in_a_circle_but_those_listed():
    found = [{name.removeprefix("zray.") for name in loop} for loop in cycles() if len(loop) > 2]
    for loop in found:
        assert any(loop <= known for known in CYCLES), f"a new cycle of imports: {sorted(loop)}"
    for known in CYCLES:
        assert known in found, f"shorten CYCLES: {sorted(known)}"


# ---------------------------------------------------------------- ports, not hosts

@pytest.mark.parametrize("module", modules())
def test_no_part_holds_the_object_that_contains_it(module):
    """A part gets ports: what it needs, by name.  From its host it could take anything."""
    assert not any(isinstance(node, ast.Attribute) and node.attr == "_host" for node in ast.walk(modules()[module]))


def test_parts_of_a_node_do_not_know_its_machine():
    users = {module for module in modules() if "zray.node.machine" in imports(module, typing=True)}
    assert {module for module in users if area(module) == "node"} == {"zray.node.daemon", "zray.node.daemon_machine"}


# ---------------------------------------------------------------- one name, one class

TWICE: dict[str, set[str]] = {
    "ActorExit": {"errors", "messages.actors"},
    "Asker": {"core.explaining", "node.ask"},
    "Chunk": {"messages.store", "worker.queue"},
    "Cluster": {"cluster_utils", "node.cluster"},
    "Connections": {"core.connections", "transport.connections"},
    "Entry": {"owner.records", "transport.credentials"},
    "Faults": {"sim.network", "transport.faults"},
    "Lease": {"owner.records", "worker.queue"},
    "Leaving": {"node.leaving", "owner.calls"},
    "Links": {"node.links", "transport.links"},
    "Loop": {"local_actors", "transport.loop"},
    "Session": {"node.session", "transport.session"},
    "Stream": {"node.output", "owner.streams"},
    "TaskEvents": {"node.task_events", "worker.events"},
    "Worker": {"_private.worker", "node.pool", "worker.main"},
}


def test_no_public_class_name_stands_for_two_classes_but_those_listed():
    where: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].add(module.removeprefix("zray."))
    assert {name: places for name, places in where.items() if len(places) > 1} == TWICE
