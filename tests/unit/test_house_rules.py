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


# ---------------------------------------------------------------- one name, one constant

# The compiled kernels and their twin in plain Python: the compiler's cache sees changes of its own file only.
TWINS = {"sched.kernels", "sched.plain"}
CONSTANTS_TWICE: dict[str, set[str]] = {
    "ADOPTION_S": {"node.foreign_actors", "node.group_service"},
    "ALIVE": {"gcs.control", "node.actors", "owner.calls"},
    "ANSWER_S": {"node.cluster_queries", "node.groups"},
    "ATTEMPT": {"node.task_events", "worker.queue"},
    "CREATED": {"node.group_records", "store.header"},
    "DEAD": {"gcs.control", "node.actors", "owner.calls"},
    "DEPTH_MAX": {"core.why", "worker.nesting"},
    "EARLY_MAX": {"node.cluster_entry", "node.early", "node.journal"},
    "EARLY_S": {"node.early", "owner.deaths"},
    "END": {"node.task_events", "worker.machine"},
    "ENDED_KEPT_MAX": {"node.jobs", "owner.calls"},
    "FAREWELL_S": {"core.runtime", "node.links"},
    "FREED": {"owner.reconstruction", "store.exchange"},
    "FULL": {"gcs.tables", "sched.kernels", "sched.plain"},
    "FUNCTIONS": {"gcs.tables", "worker.blas"},
    "GATHER_S": {"node.output", "node.unheld"},
    "GONE": {"gcs.control", "gcs.dedupe", "store.copies", "transport.envelope"},
    "GPU": {"_private.ray_constants", "sched.resources"},
    "HERE": {"sched.spillback_lanes", "store.copies"},
    "ITEMS_MAX": {"codec", "sim.map_runs"},
    "KNOWN": {"gcs.dedupe", "owner.references"},
    "LOOK_S": {"node.leaving", "sim.liveness"},
    "MARKER": {"node.output", "worker.process"},
    "NAME": {"node.task_events", "sched.policies.affinity", "sched.policies.group", "sched.policies.hybrid",
        "sched.policies.labels", "sched.policies.local", "sched.policies.locality", "sched.policies.spread"},
    "NAMES": {"core.unhandled", "gcs.tables", "sim.driver", "worker.blas"},
    "NONE": {"serialization", "worker.invoke"},
    "NOTHING": {"node.leaving", "owner.lineage"},
    "PAUSE_S": {"core.redial", "gcs.membership"},
    "PENDING": {"node.actors", "node.group_records", "owner.calls"},
    "PUT": {"gcs.tables", "owner.reconstruction"},
    "REMOVED_KEPT_MAX": {"node.group_directory", "node.groups"},
    "RESTARTING": {"node.actors", "owner.calls"},
    "SCHEME": {"node.join_secret", "transport.credentials"},
    "SPREAD": {"gcs.sharding", "sched.kernels", "sched.plain"},
    "STALE": {"gcs.dedupe", "store.exchange"},
    "START_S": {"node.starts", "sim.worker"},
    "TAIL_BYTES": {"core.witness", "node.output"},
    "UNKNOWN": {"messages.leases", "sim.linearizability"},
    "UNKNOWN_GRACE_S": {"node.actors", "node.group_service"},
    "WAIT_S": {"cluster_utils", "node.groups"},
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
