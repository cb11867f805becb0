"""Imports point one way, as docs/architecture.md says under "Layers"; a module that is in no layer fails.

Imports inside functions count too, except those that ``if TYPE_CHECKING`` guards.
"""

from __future__ import annotations

from tests.unit.source_tree import area, imports, modules

# From the ground up.  An area imports what lies below it, and nothing beside it.
LAYERS: list[tuple[str, list[str]]] = [
    ("base", ["base"]),
    ("runtime environments as data", ["environments"]),
    ("debugger", ["debugging"]),
    ("wire", ["wire"]),
    ("values", ["values"]),
    ("shared memory between processes", ["channels"]),
    ("records of runs", ["recording"]),
    ("machines and their shells", ["owner", "sched", "store", "gcs", "transport", "metrics"]),
    ("what a program holds", ["handles"]),
    ("core processes", ["core"]),
    ("workers", ["worker"]),
    ("nodes", ["node"]),
    ("state of a cluster", ["state"]),
    ("calls of a program", ["api"]),
    ("what thin modules share", ["_common"]),
    ("thin modules at Ray's paths", ["actor", "autoscaler", "client_builder", "cloudpickle", "cluster_utils",
                                     "exceptions", "experimental", "job_config", "remote_function", "runtime_context",
                                     "runtime_env", "types", "_private", "_raylet", "_version"]),
    ("names that earlier pickles have", ["errors", "ids", "refs"]),
    ("util", ["util"]),
    ("package", ["zray"]),
    ("libraries", ["dag", "job_submission"]),
    ("programs written for Ray", ["compat"]),
    ("runs from their records", ["replay", "report"]),
    ("pages of a session", ["dashboard"]),
    ("commands", ["cli", "__main__"]),
    ("simulator", ["sim"]),
]

# Imports beside or above, each with its reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("_private", "util"): "Ray's private names stand for public calls",
    ("experimental", "util"): "Ray's earlier path of Queue",
}

# Below what the layers allow.
FORBIDDEN: dict[str, list[str]] = {
    "transport": ["wire"],  # it knows bytes and peers, not message classes
    "gcs": ["values"],  # the control plane never unpickles
    "sched": ["values"],
    "node": ["values", "handles"],
}

HEIGHT = {name: height for height, (_, areas) in enumerate(LAYERS) for name in areas}


def test_every_module_is_in_a_layer():
    assert {area(module) for module in modules()} == set(HEIGHT)


def test_imports_point_one_way():
    wrong = {(module, area(name)) for module in modules() for name in imports(module, typing=False) & set(modules())
             if HEIGHT[area(name)] >= HEIGHT[area(module)] and area(name) != area(module)
             and (area(module), area(name)) not in EXCEPTIONS}
    assert not wrong, "these import what lies beside or above them"
    assert not {(module, area(name)) for module in modules() for name in imports(module, typing=False)
                if area(name) in FORBIDDEN.get(area(module), [])}


def test_every_exception_of_the_layers_is_needed():
    used = {(area(module), area(name)) for module in modules() for name in imports(module, typing=False)}
    assert not set(EXCEPTIONS) - used
