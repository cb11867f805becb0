"""Code that is pickled keeps its file name, and brings its lines where nobody could read them."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import sys
import traceback

import pytest

from zray.values.serialization import dump_function, dumps, load_function, loads, to_bytes

CELL = "/tmp/ipykernel_77/1234567890.py"
SOURCE = '''
def function(x):
    return 1 / x  # in the function

def outer():
    def nested(x):
        return 1 / x  # in the nested function
    return nested

closure = outer()
small = lambda x: 1 / x  # in the lambda

class Thing:
    def method(self, x):
        return 1 / x  # in the method
    @staticmethod
    def static(x):
        return 1 / x  # in the static method
    @property
    def broken(self):
        return 1 / 0  # in the property

def generator(x):
    yield 1 / x  # in the generator

async def coroutine(x):
    return 1 / x  # in the coroutine

def through_another(x):
    return function(
        x  # in the call
    )
'''


@pytest.fixture(autouse=True)
def _own_linecache():
    kept = dict(linecache.cache)
    yield
    linecache.cache.clear()
    linecache.cache.update(kept)


def cell(name=CELL, source=SOURCE):
    """The names that a cell of a notebook defines, with its lines where IPython puts them."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    namespace = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def elsewhere(definition):
    """The definition as a process has it that never saw the cell."""
    _, blob = dump_function(definition)
    linecache.cache.clear()
    return load_function(blob)


def trace_of(call):
    with pytest.raises(ZeroDivisionError) as caught:
        call()
    return "".join(traceback.format_tb(caught.tb))


@pytest.mark.parametrize("name, call, words", [
    ("function", lambda f: f(0), "in the function"),
    ("closure", lambda f: f(0), "in the nested function"),
    ("small", lambda f: f(0), "in the lambda"),
    ("Thing", lambda f: f().method(0), "in the method"),
    ("Thing", lambda f: f.static(0), "in the static method"),
    ("Thing", lambda f: f().broken, "in the property"),
    ("generator", lambda f: list(f(0)), "in the generator"),
    ("coroutine", lambda f: asyncio.run(f(0)), "in the coroutine"),
    ("through_another", lambda f: f(0), "in the function"),
])
def test_tracebacks_of_pickled_code_show_file_line_and_source(name, call, words):
    moved = elsewhere(cell()[name])
    text = trace_of(lambda: call(moved))
    number = next(n for n, line in enumerate(SOURCE.splitlines(), 1) if words in line)
    assert f'File "{CELL}", line {number}, in ' in text and f"# {words}" in text


def test_a_function_inside_a_value_brings_its_lines_too():
    data = to_bytes(dumps({"f": cell()["function"]}))
    linecache.cache.clear()
    assert "# in the function" in trace_of(lambda: loads(data)["f"](0))


def test_lines_travel_on_from_a_process_that_got_them():
    moved = elsewhere(elsewhere(cell()["through_another"]))
    text = trace_of(lambda: moved(0))
    assert "# in the function" in text and "return function(" in text


def test_functions_of_one_cell_complete_each_others_lines():
    namespace = cell()
    blobs = [dump_function(namespace[name])[1] for name in ("generator", "function")]
    linecache.cache.clear()
    first, second = (load_function(blob) for blob in blobs)
    assert "# in the generator" in trace_of(lambda: list(first(0)))
    assert "# in the function" in trace_of(lambda: second(0))


def test_inspect_finds_the_source_up_to_its_end():
    moved = elsewhere(cell()["through_another"])
    assert inspect.getsource(moved) == SOURCE[SOURCE.index("def through_another"):]
    assert inspect.getsourcefile(moved) == CELL


def test_a_definition_from_a_file_brings_its_lines_for_machines_without_that_file(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SOURCE)
    namespace = {"__name__": "__main__"}
    exec(compile(SOURCE, str(path), "exec"), namespace)
    _, blob = dump_function(namespace["function"])
    assert b"in the function" not in to_bytes(dumps(namespace["function"])), "here everybody can read the file"
    linecache.cache.clear()
    here = load_function(blob)
    assert str(path) not in linecache.cache and "# in the function" in trace_of(lambda: here(0))
    linecache.cache.clear()
    path.unlink()
    there = load_function(blob)
    assert "# in the function" in trace_of(lambda: there(0))


def test_lines_that_were_read_from_a_file_are_not_replaced(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SOURCE)
    namespace = {"__name__": "__main__"}
    exec(compile(SOURCE, str(path), "exec"), namespace)
    _, blob = dump_function(namespace["function"])
    read = linecache.cache[str(path)]
    path.unlink()
    load_function(blob)
    assert linecache.cache[str(path)] is read


def test_the_same_definition_has_the_same_key_in_every_process():
    namespace = cell()
    for name in ("function", "closure", "Thing"):
        keys = {dump_function(cell()[name])[0] for _ in range(3)} | {dump_function(namespace[name])[0]}
        if name == "Thing":  # classes carry a random tracker id, by which copies in a process are recognised
            continue
        assert len(keys) == 1, name


def test_code_without_known_source_is_pickled_without_lines():
    namespace = {"__name__": "__main__"}
    exec(compile("def f(x):\n    return 1 / x\n", "<string>", "exec"), namespace)
    moved = elsewhere(namespace["f"])
    assert 'File "<string>", line 2, in f' in trace_of(lambda: moved(0))


def test_code_of_python_c_brings_the_lines_of_the_argument(monkeypatch):
    from zray.base import sources

    program = "import os\ndef f(x):\n    return 1 / x  # by -c\n"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "-Xdev", "-Bc", program, "-c", "other"])
    sources._program.cache_clear()
    namespace = {"__name__": "__main__"}
    exec(compile(program, "<string>", "exec"), namespace)
    exec(compile("import os\ndef g(x):\n    return 2 / x\n", "<string>", "exec"), namespace)
    moved, generated = elsewhere(namespace["f"]), elsewhere(namespace["g"])
    assert "# by -c" in trace_of(lambda: moved(0))
    linecache.cache.clear()
    assert trace_of(lambda: generated(0)).endswith(", in g\n"), "generated code of the same name has no lines"
    sources._program.cache_clear()
