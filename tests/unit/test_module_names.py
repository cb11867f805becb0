"""Names that are both a submodule and something else of their package mean the latter, in every order of imports."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import pickle
import pkgutil
import subprocess
import sys
from types import ModuleType

import cloudpickle
import pytest

PACKAGES = ("zray", "zray.util", "zray.experimental", "zray._private")


def collisions() -> list[tuple[str, str]]:
    """(package, name): the package binds the name to something other than its submodule of that name."""
    found = []
    for package in map(importlib.import_module, PACKAGES):
        for info in pkgutil.iter_modules(package.__path__):
            path = f"{package.__name__}.{info.name}"
            bound = getattr(package, info.name, None)
            if bound is not None and not (isinstance(bound, ModuleType) and bound.__name__ == path):
                found.append((package.__name__, info.name))
    return found


def orders(package: str, name: str) -> list[str]:
    """Programs that import in every order, also with the submodule loaded anew after its package."""
    steps = [f"import {package}", f"import {package}.{name}", f"from {package}.{name} import {name} as direct",
             f"from {package} import {name} as attribute", f"import {package}.{name} as module",
             f"import importlib; importlib.import_module('{package}.{name}')"]
    out = ["; ".join(some) for some in itertools.permutations(steps, 3)]
    again = (f"import sys, {package}; del sys.modules['{package}.{name}']; import {package}.{name}",
             f"import sys, zray; sys.modules['ray'] = zray; import {package.replace('zray', 'ray', 1)}.{name}")
    return [*out, *again, *(f"{last}; {step}" for last in again for step in steps)]


CHECK = """
import json, sys
import zray
name, package, programs = json.load(sys.stdin)
def fresh():  # the package anew; what it is built on stays, which takes the time
    for module in [m for m in sys.modules if m.startswith((package, "ray"))]:
        del sys.modules[module]
    zray.__dict__.pop(package.rpartition(".")[2], None)
for program in programs:
    fresh()
    exec(program, {})
    found = getattr(sys.modules[package], name)
    try:
        found("no valid argument")
    except ValueError as error:
        assert "must be a list" in str(error), (program, error)
"""


def test_placement_group_is_known_to_collide():
    assert ("zray.util", "placement_group") in collisions()


@pytest.mark.parametrize(("package", "name"), collisions())
def test_every_order_of_imports_gives_something_to_call(package, name):
    given = json.dumps([name, package, orders(package, name)])
    done = subprocess.run([sys.executable, "-c", CHECK], input=given, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("package", "name"), collisions())
def test_the_module_itself_is_as_good_as_the_function(package, name):
    module = sys.modules[f"{package}.{name}"]
    function = getattr(module, name)
    assert isinstance(module, ModuleType) and inspect.isfunction(function)
    assert inspect.signature(module) == inspect.signature(function)
    for one in (module, function):
        assert pickle.loads(pickle.dumps(one)) is one and cloudpickle.loads(cloudpickle.dumps(one)) is one
