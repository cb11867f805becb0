"""Rules of the code that hold themselves: pure modules, cycles of imports, names of classes and of constants.

What breaks a rule today is listed, and the list may only get shorter: a test fails for what is listed without need.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest
from tests.unit.source_tree import area, cycles, imports, modules

# ---------------------------------------------------------------- pure modules

PURE_AREAS = ["messages", "owner", "sched", "gcs", "node", "store", "transport", "worker", "sim"]
PURE_MODULES = ["zray.core.connections", "zray.core.creation", "zray.core.waits.groups", "zray.core.machine",
                "zray.core.ports", "zray.core.process", "zray.core.redial", "zray.core.waits.why"]
IMPURE = {"time", "random", "os", "socket", "threading", "zmq", "select", "signal", "subprocess", "asyncio", "datetime",
          "fcntl", "mmap", "ctypes", "multiprocessing"}
# What each shell, or what draws from a seeded generator, may import of these; the others none of them.
SHELLS: dict[str, set[str]] = {
    "gcs.replica.disk": {"os"},
    "gcs.replica.persistence": {"os"},
    "gcs.service": {"os"},
    "node.daemon": {"os", "select", "time"},
    "node.peers.entry": {"os", "time"},
    "node.peers.object_handover": {"os"},
    "node.peers.probes": {"socket"},
    "node.processes.children": {"os", "select", "signal", "socket"},
    "node.processes.linux": {"ctypes", "os", "signal"},
    "node.processes.output": {"os"},
    "node.processes.zygote": {"os", "random", "select", "signal", "socket", "time"},
    "node.running.ask": {"os", "time"},
    "node.running.join_secret": {"os"},
    "node.running.journal": {"os", "time"},
    "node.running.launch": {"fcntl", "os", "signal", "time"},
    "node.running.log_file": {"os"},
    "node.running.options": {"os", "socket"},
    "node.running.session": {"os", "time"},
    "node.running.supervision": {"signal"},
    "sched.cluster.gossip": {"random"},
    "sched.kernels.loading": {"os", "threading"},
    "sim.driver": {"random"},
    "sim.mesh": {"zmq"},
    "sim.network": {"random"},
    "sim.plan": {"random"},
    "sim.programs": {"random"},
    "store.node.reaper": {"os", "time"},
    "store.node.service": {"mmap", "os", "time"},
    "store.node.spill": {"os"},
    "store.pins": {"ctypes", "os"},
    "store.segment": {"mmap", "multiprocessing", "os"},
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
    "worker.actors.calls": {"signal", "threading", "time"},
    "worker.actors.coroutines": {"asyncio", "time"},
    "worker.actors.ends": {"os", "threading"},
    "worker.actors.meshloop": {"asyncio", "threading"},
    "worker.blas": {"ctypes"},
    "worker.events": {"os", "time"},
    "worker.executor": {"os", "threading", "time"},
    "worker.main": {"os", "signal", "time"},
    "worker.process": {"os", "time"},
    "worker.run.cancel": {"signal", "threading"},
    "worker.run.inline": {"threading"},
    "worker.run.maps": {"time"},
    "worker.run.streams": {"asyncio", "time"},
}


@pytest.mark.parametrize("module",
                         [name for name in modules() if area(name) in PURE_AREAS] + PURE_MODULES)
def test_modules_of_the_machines_are_pure_unless_they_are_listed_as_shells(module):
    used = imports(module, typing=False) & IMPURE
    assert used == SHELLS.get(module.removeprefix("zray."), set()), f"{module}: change SHELLS only for a shell"


# ---------------------------------------------------------------- cycles of imports

CYCLES: list[set[str]] = [
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


def test_no_part_of_a_node_is_made_with_the_whole_object_that_makes_it():
    for module, tree in modules().items():
        for node in ast.walk(tree) if area(module) == "node" else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.strip("_")[:1].isupper():
                assert not any(isinstance(value, ast.Name) and value.id == "self" for value in node.args), (
                    f"{module}:{node.lineno}")


def test_parts_of_a_node_do_not_know_its_machine():
    users = {module for module in modules() if "zray.node.machine" in imports(module, typing=True)}
    assert {module for module in users if area(module) == "node"} == {"zray.node.daemon", "zray.node.daemon_machine"}


# ---------------------------------------------------------------- one name, one class

TWICE: dict[str, set[str]] = {
    "ActorExit": {"base.errors", "wire.messages.actors"},
    "Cluster": {"api.cluster", "node.peers.cluster"},
    "Loop": {"api.local_actors", "transport.loop"},
    "Session": {"node.running.session", "transport.session"},
    "Worker": {"_private.worker", "node.processes.pool"},
}


def test_no_public_class_name_stands_for_two_classes_but_those_listed():
    where: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].add(module.removeprefix("zray."))
    assert {name: places for name, places in where.items() if len(places) > 1} == TWICE


# ---------------------------------------------------------------- one name, one constant

# The compiled kernels and their twin in plain Python: the compiler's cache sees changes of its own file only.
TWINS = {"sched.kernels.compiled", "sched.kernels.plain"}
CONSTANTS_TWICE: dict[str, set[str]] = {
    "ADOPTION_S": {"node.actors.foreign", "node.groups.service"},
    "ALIVE": {"gcs.configuration.control", "wire.messages.actors"},
    "ANSWER_S": {"node.groups.table", "node.peers.queries"},
    "CREATED": {"node.groups.records", "store.header"},
    "DEAD": {"gcs.configuration.control", "wire.messages.actors"},
    "EARLY_MAX": {"node.peers.early", "node.peers.entry", "node.running.journal"},
    "FULL": {"gcs.replica.tables", "sched.kernels.compiled", "sched.kernels.plain"},
    "GATHER_S": {"node.jobs.unheld", "node.processes.output"},
    "GONE": {"gcs.configuration.control", "gcs.replica.dedupe", "store.transfer.copies", "transport.envelope"},
    "GPU": {"_private.ray_constants", "sched.resources"},
    "HERE": {"sched.cluster.spillback_lanes", "store.transfer.copies"},
    "NAME": {"node.jobs.task_events", "sched.policies.affinity", "sched.policies.group", "sched.policies.hybrid",
        "sched.policies.labels", "sched.policies.local", "sched.policies.locality", "sched.policies.spread"},
    "PENDING": {"node.groups.records", "wire.messages.actors"},
    "SCHEME": {"node.running.join_secret", "transport.credentials"},
    "SPREAD": {"gcs.client.sharding", "sched.kernels.compiled", "sched.kernels.plain"},
    "STALE": {"gcs.replica.dedupe", "store.transfer.exchange"},
    "UNKNOWN_GRACE_S": {"node.actors.table", "node.groups.service"},
    "WAIT_S": {"api.cluster", "node.groups.table"},
}


def constants(tree: ast.Module) -> Iterator[str]:
    """Names in capitals that the top level of a module assigns, but for private ones."""
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id.isupper() and name.id[0] != "_" and len(name.id) > 1:
                    yield name.id


def test_a_constant_has_one_definition_but_those_listed():
    where: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules().items():
        for name in constants(tree):
            where[name].add(module.removeprefix("zray."))
    found = {name: places for name, places in where.items() if len(places) > 1 and places != TWINS}
    assert found == CONSTANTS_TWICE
