"""Rules of the code that hold themselves: pure modules, cycles of imports, sizes, names of classes and constants.

What breaks a rule today is listed, and the list may only get shorter: a test fails for what is listed without need.
"""

from __future__ import annotations

from collections import defaultdict

from tests.unit.source_tree import area, cycles, imports, modules

# ---------------------------------------------------------------- pure modules

PURE_AREAS = ["metrics", "wire", "owner", "sched", "gcs", "node", "store", "transport", "worker", "sim", "channels"]
PURE_MODULES = ["zray.core.connections", "zray.core.creation", "zray.core.waits.groups", "zray.core.machine",
                "zray.core.ports", "zray.core.process", "zray.core.redial", "zray.core.waits.why"]
IMPURE = {"time", "random", "os", "socket", "threading", "zmq", "select", "signal", "subprocess", "asyncio", "datetime",
          "fcntl", "mmap", "ctypes", "multiprocessing"}
# What each shell, or what draws from a seeded generator, may import of these; the others none of them.
SHELLS: dict[str, set[str]] = {
    "gcs.replica.disk": {"os"},
    "gcs.replica.persistence": {"os"},
    "gcs.service": {"os"},
    "metrics.recorder": {"threading"},
    "node.daemon": {"os", "select", "time"},
    "node.environments.build": {"fcntl", "os", "signal"},
    "node.environments.installer": {"os", "signal"},
    "node.environments.venvs": {"os", "subprocess"},
    "node.peers.entry": {"os", "time"},
    "node.peers.object_handover": {"os"},
    "node.peers.probes": {"socket"},
    "node.processes.children": {"os", "select", "signal", "socket"},
    "node.processes.guard": {"os", "signal"},
    "node.processes.memory_gauge": {"os"},
    "node.processes.linux": {"ctypes", "os", "signal"},
    "node.processes.output": {"os"},
    "node.processes.zygote": {"os", "select", "signal", "socket", "time"},
    "node.process": {"os", "signal"},
    "worker.debugging": {"os"},
    "node.running.ask": {"os", "time"},
    "node.running.checkpoint_files": {"os"},
    "node.running.host_metrics": {"os", "time"},
    "node.running.dashboard": {"fcntl", "os", "signal", "socket"},
    "node.running.join_secret": {"os"},
    "node.running.journal": {"os", "time"},
    "node.running.kept_state": {"os", "time"},
    "node.running.launch": {"fcntl", "os", "signal", "time"},
    "node.running.log_file": {"os"},
    "node.running.logs": {"os"},
    "node.running.options": {"os", "socket"},
    "node.running.rejoining": {"os", "signal", "socket", "time"},
    "node.running.scrape": {"socket"},
    "node.running.session": {"os", "time"},
    "node.running.supervision": {"signal"},
    "sched.cluster.gossip": {"random"},
    "sched.kernels.loading": {"os", "threading"},
    "sim.cluster": {"random"},
    "sim.chains": {"random"},
    "sim.driver": {"random"},
    "sim.mesh": {"random", "zmq"},
    "sim.network": {"random"},
    "sim.plan": {"random"},
    "sim.programs": {"random"},
    "store.node.reaper": {"os", "time"},
    "store.node.service": {"mmap", "os", "time"},
    "store.node.spill": {"os"},
    "store.pins": {"ctypes", "os"},
    "store.segment": {"mmap", "multiprocessing", "os"},
    "channels.channel": {"mmap", "os", "select", "socket", "time"},
    "channels.duplex": {"fcntl", "mmap", "os", "socket"},
    "channels.waiting": {"os", "time"},
    "transport.connections": {"zmq"},
    "transport.credentials": {"os", "threading", "time"},
    "transport.curve": {"os", "socket", "zmq"},
    "transport.faults": {"random"},
    "transport.gate": {"os", "socket", "threading", "zmq"},
    "transport.links": {"os", "zmq"},
    "transport.loop": {"os", "signal", "threading", "time"},
    "transport.mesh": {"zmq"},
    "transport.outbound": {"time", "zmq"},
    "transport.polling": {"os", "select"},
    "transport.shared": {"os"},
    "transport.sockets": {"zmq"},
    "transport.tcp": {"zmq"},
    "worker.actors.calls": {"signal", "threading", "time"},
    "worker.actors.coroutines": {"asyncio", "time"},
    "worker.actors.ends": {"os", "threading"},
    "worker.actors.meshloop": {"asyncio", "threading"},
    "worker.actors.saving": {"os", "time"},
    "worker.blas": {"ctypes"},
    "worker.equipment": {"os"},
    "worker.events": {"os", "time"},
    "worker.executor": {"os", "threading", "time"},
    "worker.main": {"os", "signal", "time"},
    "worker.process": {"os", "time"},
    "worker.recording": {"ctypes", "random", "threading", "time"},
    "worker.run.cancel": {"signal", "threading"},
    "worker.run.inline": {"threading"},
    "worker.run.maps": {"time"},
    "worker.run.streams": {"asyncio", "time"},
}


def test_modules_of_the_machines_are_pure_unless_they_are_listed_as_shells():
    pure = [name for name in modules() if area(name) in PURE_AREAS] + PURE_MODULES
    impure = {name.removeprefix("zray."): set(imports(name, typing=False) & IMPURE) for name in pure}
    assert {name: used for name, used in impure.items() if used} == SHELLS, "change SHELLS only for a shell"


# ---------------------------------------------------------------- cycles of imports

def test_no_three_modules_import_each_other_in_a_circle():
    assert not [sorted(loop) for loop in cycles() if len(loop) > 2]


# ---------------------------------------------------------------- sizes

FILE_LINES_MAX = 660
FUNCTION_LINES_MAX = 80


def test_no_file_and_no_function_is_too_long_to_be_read_in_one_sitting():
    files = [(name, module.lines) for name, module in modules().items() if module.lines > FILE_LINES_MAX]
    functions = [(f"{name}:{function}", lines) for name, module in modules().items()
                 for function, lines in module.functions if lines > FUNCTION_LINES_MAX]
    assert not files + functions, "split it by idea"


# ---------------------------------------------------------------- ports, not hosts


def test_no_part_holds_the_object_that_contains_it():
    """A part gets ports: what it needs, by name.  From its host it could take anything."""
    assert not [name for name, module in modules().items() if "_host" in module.attributes]


def test_no_part_of_a_node_is_made_with_the_whole_object_that_makes_it():
    made = {name: module.made_with_self for name, module in modules().items() if area(name) == "node"}
    assert not {name: classes for name, classes in made.items() if classes}


def test_parts_of_a_node_do_not_know_its_machine():
    users = {module for module in modules() if "zray.node.machine" in imports(module, typing=True)}
    assert {module for module in users if area(module) == "node"} == {"zray.node.daemon", "zray.node.daemon_machine"}


# ---------------------------------------------------------------- one name, one class

def twice(kind: str) -> dict[str, set[str]]:
    """The names that several modules define, and which."""
    where: dict[str, set[str]] = defaultdict(set)
    for name, module in modules().items():
        for defined in getattr(module, kind):
            where[defined].add(name.removeprefix("zray."))
    return {defined: places for defined, places in where.items() if len(places) > 1}


def test_no_public_class_name_stands_for_two_classes():
    assert not twice("classes")


# ---------------------------------------------------------------- one name, one constant

# The compiled kernels and their twin in plain Python: the compiler's cache sees changes of its own file only.
TWINS = {"sched.kernels.compiled", "sched.kernels.plain"}
CONSTANTS_TWICE: dict[str, set[str]] = {
    "ALIVE": {"gcs.configuration.control", "wire.messages.actors"},
    "DEAD": {"gcs.configuration.control", "wire.messages.actors"},
    "FULL": {"gcs.replica.tables", "sched.kernels.compiled", "sched.kernels.plain"},
    "GONE": {"gcs.configuration.control", "gcs.replica.dedupe", "store.transfer.copies", "transport.envelope"},
    "HERE": {"sched.cluster.spillback_lanes", "store.transfer.copies"},
    "NAME": {"sched.policies.affinity", "sched.policies.group", "sched.policies.hybrid", "sched.policies.labels",
        "sched.policies.local", "sched.policies.locality", "sched.policies.spread"},
    "SPREAD": {"gcs.client.sharding", "sched.kernels.compiled", "sched.kernels.plain"},
    "STALE": {"gcs.replica.dedupe", "store.transfer.exchange"},
}


def test_a_constant_has_one_definition_but_those_listed():
    assert {name: places for name, places in twice("constants").items() if places != TWINS} == CONSTANTS_TWICE
