"""Nodes inside containers are found in order and replaced, and nothing else changes."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

from hypothesis import given, strategies as st

from zray.dag.nesting import instances_in, replaced

Pair = namedtuple("Pair", "left right")


class Mark:
    """What is looked for; identity counts, as for nodes."""


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


MARKS = [Mark() for _ in range(4)]
RESULTS = {mark: f"result {number}" for number, mark in enumerate(MARKS)}
leaves = st.one_of(st.integers(), st.text(max_size=3), st.sampled_from(MARKS))
values = st.recursive(leaves, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.tuples(inner, inner), st.builds(Pair, inner, inner), st.builds(Point, inner, inner),
    st.dictionaries(st.text(max_size=2), inner, max_size=3),
    st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict),
    st.frozensets(st.sampled_from(MARKS), max_size=2)), max_leaves=12)


def described(value, mark):
    """A value as text, with ``mark(item)`` for each Mark: the oracle, which shares no code with the module."""
    if isinstance(value, Mark):
        return mark(value)
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}{sorted(described(item, mark) for item in value)}"
    if isinstance(value, dict):
        return f"{type(value).__name__}{[(key, described(item, mark)) for key, item in value.items()]}"
    if isinstance(value, Point):
        return f"Point{described(value.x, mark)},{described(value.y, mark)}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{[described(item, mark) for item in value]}"
    return repr(value)


@given(values)
def test_each_mark_is_replaced_where_it_stands(value):
    made = replaced(value, Mark, RESULTS)
    assert described(made, lambda mark: "none may be left") == described(value, lambda mark: repr(RESULTS[mark]))


@given(values)
def test_marks_are_found_in_order_and_values_without_one_stay_the_same_object(value):
    found = list(instances_in(value, Mark))
    seen: list[Mark] = []
    described(value, lambda mark: (seen.append(mark), "")[1])
    assert sorted(map(id, found)) == sorted(map(id, seen))
    if isinstance(value, (list, Pair)):
        assert found[:1] == list(instances_in(list(value), Mark))[:1]
    if not found:
        assert replaced(value, Mark, RESULTS) is value


def test_a_list_that_contains_itself_is_looked_into_once():
    loop: list = [1]
    loop.append(loop)
    assert list(instances_in(loop, Mark)) == [] and replaced(loop, Mark, RESULTS) is loop
