"""Caches and dispatchers of functools in classes and functions of scripts travel, without what they have cached."""

from __future__ import annotations

import functools
import os.path
import sys
import types

import cloudpickle
import pytest

from zray.values.pickler import cloud_dumps

SCRIPT = '''
import functools

@functools.lru_cache(maxsize=3, typed=True)
def fib(n):
    """Of n."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)

@functools.cache
def square(n):
    return n * n

@functools.singledispatch
def size(value):
    return "object"

@size.register
def _(value: int):
    return "int"

@size.register(list)
def _(value):
    return [size(item) for item in value]

class Model:
    built = 0
    @functools.lru_cache(maxsize=8)
    def table(self, n):
        return [n, fib(n)]
    @functools.cached_property
    def heavy(self):
        Model.built += 1
        return 5
    @functools.singledispatchmethod
    def show(self, value):
        return "object"
    @show.register
    def _(self, value: int):
        return "int"
    @staticmethod
    @functools.cache
    def double(n):
        return 2 * n
'''


@pytest.fixture
def script(monkeypatch):
    """As a driver has it: names of __main__, which a worker does not have."""
    module = types.ModuleType("__main__")
    exec(SCRIPT, module.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def travel(value):
    data = cloud_dumps(value)
    sys.modules["__main__"] = types.ModuleType("__main__")  # the worker's
    return cloudpickle.loads(data)


def test_lru_cache_travels_empty_with_its_size_and_name(script):
    script.fib(5)
    fib = travel(script.fib)
    assert fib.cache_info() == (0, 0, 3, 0) and fib.cache_parameters() == {"maxsize": 3, "typed": True}
    assert fib(10) == 55 and fib.__doc__ == "Of n." and fib.__name__ == "fib"
    assert fib.__wrapped__.__globals__["fib"] is fib, "the recursion uses the cache"


def test_singledispatch_travels_with_its_implementations(script):
    script.size([1])
    size = travel(script.size)
    assert size([1, "a", [2]]) == ["int", "object", ["int"]] and size.dispatch(bool) is size.registry[int]
    assert size.__name__ == "size"
    size.register(str, lambda value: "str")
    assert size("a") == "str"


def test_caches_in_a_class_travel_with_it(script):
    first = script.Model()
    assert first.table(3) == [3, 2] and first.heavy == 5 and script.Model.double(2) == 4
    model = travel(script.Model)
    one = model()
    assert one.table(6) == [6, 8] and model.table.cache_info().currsize == 1
    assert one.heavy == one.heavy == 5 and vars(one) == {"heavy": 5} and model.built == 2
    assert one.show(1) == "int" and one.show("a") == "object" and model.double(4) == 8


def test_an_instance_takes_its_cached_values_along_as_attributes(script):
    one = script.Model()
    assert one.heavy == 5
    assert vars(travel(one)) == {"heavy": 5}


def test_what_a_worker_can_import_goes_by_name():
    for importable in (os.path.join, functools.singledispatch, _memoised, _dispatched):
        assert cloudpickle.loads(cloud_dumps(importable)) is importable


@functools.lru_cache
def _memoised(n):
    return n


@functools.singledispatch
def _dispatched(n):
    return n
