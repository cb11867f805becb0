"""Digests of functions and arguments: equal in every process for what is equal, different for what differs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import types
from functools import partial

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.e2e.scripts import environment
from zray.values.digests import DIGEST_BYTES, NoDigest, of_function, of_value


def nothing(obj):
    return None


atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(
    max_size=5)
values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.sets(
    atoms, max_size=4) | st.dictionaries(atoms, inner, max_size=3), max_leaves=12)


def shown(value):
    """The oracle: a text that is the same exactly for values that count as equal."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({sorted(map(shown, value))})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({[shown(item) for item in value]})"
    if isinstance(value, dict):
        return f"dict({[(shown(key), shown(item)) for key, item in value.items()]})"
    return f"{type(value).__name__}({value!r})"


def copied(value):
    """An equal value of which no part is the same object, with sets filled in the other order."""
    if isinstance(value, (set, frozenset)):
        return type(value)(reversed([copied(item) for item in value]))
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    if isinstance(value, dict):
        return {copied(key): copied(item) for key, item in value.items()}
    return "".join(list(value)) if isinstance(value, str) else value


@given(values, values)
def test_values_have_one_digest_exactly_if_they_are_equal(one, other):
    assert of_value(one, nothing) == of_value(copied(one), nothing)
    assert (of_value(one, nothing) == of_value(other, nothing)) == (shown(one) == shown(other))


def test_arrays_count_by_type_shape_and_content():
    array = np.arange(100_000).reshape(100, 1000)
    different = [array.T, array.astype(np.int32), array.reshape(-1), array + 1, array[::2]]
    assert of_value(array, nothing) == of_value(array.copy(), nothing)
    assert of_value([array, array], nothing) == of_value([array, array.copy()], nothing)
    assert len({of_value(one, nothing) for one in [array, *different]}) == 1 + len(different)


def test_what_contains_itself_or_cannot_be_pickled_has_no_digest():
    circle: list = []
    circle.append(circle)
    for value in (circle, threading.Lock(), [1, (x for x in ())]):
        with pytest.raises(NoDigest, match="cannot be pickled alike"):
            of_value(value, nothing)


def test_an_object_may_be_stood_in_for_or_refused():
    marked = types.SimpleNamespace(x=1)

    def special(obj):
        if obj is marked:
            return "mark", b"1"
        if isinstance(obj, range):
            raise NoDigest("no ranges")
        return None

    assert of_value([marked], special) != of_value([marked], nothing)
    with pytest.raises(NoDigest, match="no ranges"):
        of_value({"a": [range(3)]}, special)


# ---------------------------------------------------------------- functions

FUNCTION = """
import functools, math
import numpy as np
RATE = 3
TABLE = {"a": [1, 2], "b": {"x", "y", "z"}}
LOCK = __import__("threading").Lock()

class Point:
    side = 2
    def __init__(self, x):
        self.x = x
    def area(self):
        return self.x * self.side

def helper(x):
    return x + RATE

@functools.lru_cache
def cached(x):
    return x + 10

def compiled(x):
    return x + 20

try:
    compiled = COMPILE(compiled)
except NameError:
    pass

def recursive(n):
    return n if n < 1 else recursive(n - 1)

def f(x, y=4, *, z=5):
    # a comment
    with LOCK:
        if x in {"one", "two", "three"}:
            return math.sqrt(helper(x)), TABLE, recursive(3)
        inner = lambda a: Point(a).area() + y + z
        return inner(x) + np.sum(x) + cached(x) + compiled(x)
"""


def function_of(source):
    """As from a program's own text: ``__main__`` is its module."""
    space = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(source), "program.py", "exec"), space)
    return space["f"]


def test_comments_and_lines_and_other_definitions_do_not_count():
    first = of_function(function_of(FUNCTION), nothing)
    assert len(first) == DIGEST_BYTES
    moved = "\n\nUNUSED = 7\n" + FUNCTION.replace("# a comment", "# another\n    # comment")
    assert of_function(function_of(moved), nothing) == first


@pytest.mark.parametrize(("old", "new"), [
    ("RATE = 3", "RATE = 4"), ("x + RATE", "x - RATE"), ("y=4", "y=6"), ("z=5", "z=6"), ("side = 2", "side = 3"),
    ("x + 10", "x + 11"), ("x + 20", "x + 21"),
    ("self.x * self.side", "self.x ** self.side"), ("math.sqrt", "math.floor"), ('"three"', '"four"'),
    ('"y"', '"w"'), ("+ y + z", "+ y - z"), ("n < 1", "n < 2"), ("def f", "def g(): pass\ndef h(): pass\ndef f"),
])
def test_a_change_of_what_the_function_runs_or_reads_counts(old, new):
    assert old in FUNCTION
    changed = of_function(function_of(FUNCTION.replace(old, new)), nothing) != of_function(
        function_of(FUNCTION), nothing)
    assert changed == (not new.startswith("def g"))


def test_functions_that_numba_compiles_count_by_their_code():
    from numba import njit

    def digest(source):
        space = {"__name__": "__main__", "COMPILE": njit}
        exec(compile(textwrap.dedent(source), "program.py", "exec"), space)
        return of_function(space["f"], nothing)

    assert digest(FUNCTION) == digest(FUNCTION) != digest(FUNCTION.replace("x + 20", "x + 21"))


def test_closures_partials_and_methods_count_with_what_they_hold():
    def made(n):
        return lambda x: x + n

    assert of_function(made(1), nothing) == of_function(made(1), nothing) != of_function(made(2), nothing)
    assert of_value(partial(made, 1), nothing) != of_value(partial(made, 2), nothing)


def test_a_program_that_runs_again_has_the_same_digests_whatever_the_seed_of_hashes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(FUNCTION + textwrap.dedent("""
        from zray.values.digests import of_function, of_value
        print(of_function(f, lambda obj: None).hex(),
              of_value(({"a", "b", "c", ("d", 1)}, Point(3), Point, helper, np.arange(9), [TABLE, TABLE]),
                       lambda obj: None).hex())
        """))
    found = {subprocess.run([sys.executable, program], env=environment(PYTHONHASHSEED=seed), check=True, text=True,
                            capture_output=True, timeout=60).stdout for seed in ("1", "2", "3")}
    assert len(found) == 1
