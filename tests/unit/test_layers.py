"""Imports point one way, as docs/architecture.md says under "Layers"; a module that is in no layer fails.

Imports inside functions count too, except those that ``if TYPE_CHECKING`` guards.
"""

from __future__ import annotations

import pytest
from tests.unit.source_tree import area, imports, modules

# From the ground up.  An area imports what lies below it, and nothing beside it.
LAYERS: list[tuple[str, list[str]]] = [
    ("base", ["ids", "errors", "causes", "config", "env_vars", "frames", "os_linux", "plain_numbers",
              "signatures", "sources", "stacks", "stepping", "driver_log"]),
    ("wire", ["messages"]),
    ("codec, special cases of pickling", ["codec", "custom_serializers", "pickled_caches"]),
    ("what is pickled how", ["pickler"]),
    ("why something is not", ["unpicklable"]),
    ("functions and classes", ["definitions"]),
    ("values", ["serialization"]),
    ("machines and their shells", ["owner", "sched", "store", "gcs", "transport"]),
    ("references and options", ["refs", "options"]),
    ("handles", ["handles", "connection"]),
    ("core processes", ["core"]),
    ("workers", ["worker"]),
    ("nodes", ["node"]),
    ("public API", ["api", "cluster_context", "local_actors", "local_mode", "local_objects", "logging_config",
                    "runtime_context"]),
    ("thin modules at Ray's paths", ["actor", "cloudpickle", "exceptions", "remote_function", "runtime_env", "types",
                                     "cluster_utils", "experimental", "_private"]),
    ("util", ["util"]),
    ("package", ["zray"]),
    ("commands", ["cli"]),
    ("simulator", ["sim"]),
]

# Imports beside or above, each with its reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("config", "plain_numbers"): "settings take numbers of numpy",
    ("stacks", "frames"): "a stack is shown without the frames of zray",
    ("driver_log", "experimental"): "bars of tqdm_ray move where worker output is shown: inside a function",
    ("worker", "logging_config"): "a worker logs as its driver's LoggingConfig says: inside a function",
    ("logging_config", "runtime_context"): "records carry the ids of the task that logs",
    ("local_mode", "local_actors"): "one idea in three files",
    ("local_mode", "local_objects"): "the same",
    ("_private", "util"): "Ray's private names stand for public calls",
    ("handles", "connection"): "a handle finds the session of this process when it is called",
    ("connection", "api"): "the first call starts a session: inside a function",
    ("api", "cluster_context"): "init() returns it",
    ("cluster_context", "api"): "the address info is what the public calls say",
    ("cluster_context", "local_mode"): "init(local_mode=True)",
    ("cluster_context", "zray"): "the context reads the version and the nodes as a user would: inside a function",
    ("cluster_utils", "zray"): "Cluster(connect=True) calls init as a user would: inside a function",
}

# Below what the layers allow.
FORBIDDEN: dict[str, list[str]] = {
    "transport": ["messages", "codec"],  # it knows bytes and peers, not message classes
    "gcs": ["serialization", "definitions", "pickler"],  # the control plane never unpickles
    "sched": ["serialization", "definitions", "pickler"],
    "node": ["serialization", "definitions", "pickler", "refs", "options", "handles"],
}

HEIGHT = {name: height for height, (_, areas) in enumerate(LAYERS) for name in areas}


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module):
    here = area(module)
    assert here in HEIGHT, f"{module} is in no layer: add {here} to LAYERS"
    used = {area(name) for name in imports(module, typing=False) if name in modules()} - {here}
    wrong = {name for name in used if HEIGHT[name] >= HEIGHT[here] and (here, name) not in EXCEPTIONS}
    assert not wrong, f"{module} imports {sorted(wrong)}, which lie beside or above it"
    assert not used & set(FORBIDDEN.get(here, [])), f"{module} imports {sorted(used & set(FORBIDDEN[here]))}"


def test_every_exception_of_the_layers_is_needed():
    used = {(area(module), area(name)) for module in modules() for name in imports(module, typing=False)}
    assert not set(EXCEPTIONS) - used


def test_every_layer_exists():
    assert set(HEIGHT) <= {area(module) for module in modules()}
