"""Records of zray.base.named_tuples against those of typing."""

from __future__ import annotations

import copy
import pickle
import typing
from typing import Any

import pytest
from hypothesis import given, strategies as st

from zray.base import named_tuples


class Ours(named_tuples.NamedTuple):
    """A record."""

    first: int
    second: str = "two"
    third: typing.Any = None

    def both(self) -> str:
        return f"{self.first}{self.second}"


class Theirs(typing.NamedTuple):
    """A record."""

    first: int
    second: str = "two"
    third: typing.Any = None

    def both(self) -> str:
        return f"{self.first}{self.second}"


class Deeper(Ours):
    """A subclass of a record has the record's fields."""

    def thrice(self) -> int:
        return 3 * self.first


class Empty(named_tuples.NamedTuple):
    """A record of nothing."""


NAMES = st.sampled_from(("first", "second", "third", "fourth"))


def _outcome(make: Any) -> Any:
    try:
        made = make()
    except TypeError as error:
        return str(error).replace("Theirs", "Ours")
    return tuple(made), repr(made).replace("Theirs", "Ours"), made.both(), made._asdict(), made == tuple(made)


@given(st.lists(st.integers(), max_size=5), st.dictionaries(NAMES, st.integers()))
def test_constructors_are_those_of_typing(values: list[int], named: dict[str, int]) -> None:
    cases: list[Any] = [Ours, Theirs]
    ours, theirs = (_outcome(lambda cls=cls: cls(*values, **named)) for cls in cases)
    assert ours == theirs


@given(st.dictionaries(NAMES, st.integers()))
def test_replacing_is_that_of_typing(named: dict[str, int]) -> None:
    if "fourth" in named:
        with pytest.raises(ValueError, match="fourth"):
            Ours(1)._replace(**named)
    else:
        assert tuple(Ours(1)._replace(**named)) == tuple(Theirs(1)._replace(**named))


def test_a_record_is_a_tuple_that_cannot_be_changed() -> None:
    one = Ours(1, third=[3])
    first, second, third = one
    assert (first, second, third) == (one.first, one.second, one.third) == (1, "two", [3])
    with pytest.raises(AttributeError):
        one.first = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        one.unknown = 2  # type: ignore[attr-defined]
    assert Ours._fields == Theirs._fields
    assert Ours._field_defaults == Theirs._field_defaults
    assert Ours._make([1, 2, 3]) == (1, 2, 3)


def test_copies_and_pickles_are_records_again() -> None:
    one = Ours(1, third=[3])
    for other in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert type(other) is Ours
        assert other == one


def test_patterns_match_by_position() -> None:
    match Ours(1, "b", None):
        case Ours(first, second):
            assert (first, second) == (1, "b")
        case _:
            raise AssertionError("no match")


def test_a_subclass_and_a_record_of_nothing() -> None:
    assert Deeper(2).thrice() == 6
    assert type(Deeper(2)._replace(first=3)) is Deeper
    assert Deeper(2, "x").both() == "2x"
    assert Empty() == ()
    with pytest.raises(TypeError):
        Empty(1)  # type: ignore[call-arg]


def test_a_field_without_a_default_does_not_follow_one_with_a_default() -> None:
    with pytest.raises(TypeError, match="Late: a field without a default"):
        type(named_tuples.NamedTuple)("Late", (named_tuples.NamedTuple,),
                                      {"__annotations__": {"a": "int", "b": "int"}, "a": 1})
