"""Rules of the code that hold themselves: pure modules, cycles of imports, class names.

What breaks a rule today is listed, and the list may only get shorter: a test fails for what is listed without need.
"""

from __future__ import annotations

import ast
from collections import defaultdict

import pytest
from tests.unit.source_tree import area, cycles, imports, modules

# ---------------------------------------------------------------- pure modules

PURE_AREAS = ["messages", "owner", "sched", "gcs", "node", "store", "transport", "sim"]
IMPURE = {"time", "random", "os", "socket", "threading", "zmq", "select", "signal", "subprocess", "asyncio", "datetime",
          "fcntl", "mmap", "ctypes", "multiprocessing"}
SEEDED = {"random"}  # the type, or a generator made from the seed
SHELLS: dict[str, set[str]] = {
}


@pytest.mark.parametrize("module", [name for name in modules() if area(name) in PURE_AREAS])
def test_modules_of_the_machines_are_pure_unless_they_are_listed_as_shells(module):
    used = imports(module, typing=False) & IMPURE
    assert used == SHELLS.get(module, set()), f"{module}: change SHELLS only for a shell"


# ---------------------------------------------------------------- cycles of imports

CYCLES: list[set[str]] = [
]


def test_no_three_modules_import_each_other_in_a_circle_but_those_listed():
    found = [loop for loop in cycles() if len(loop) > 2]
    for loop in found:
        assert any(loop <= known for known in CYCLES), f"a new cycle of imports: {sorted(loop)}"
    for known in CYCLES:
        assert known in found, f"shorten CYCLES: {sorted(known)}"


# ---------------------------------------------------------------- one name, one class

TWICE: dict[str, set[str]] = {
}


def test_no_public_class_name_stands_for_two_classes_but_those_listed():
    where: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].add(module.removeprefix("zray."))
    assert {name: places for name, places in where.items() if len(places) > 1} == TWICE
