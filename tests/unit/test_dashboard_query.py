"""The tables of the dashboard: search, filters, order and pages on the server, and cells of bounded length."""

from __future__ import annotations

import json

import pytest

from tests.fakes.kept_rows import HOSTILE
from zray.dashboard.query import CELL_CHARS_MAX, PAGE_ROWS_MAX, BadQuery, Query, cell, table

ROWS = [{"name": name, "size": size} for size, name in enumerate(("b", "A", "c", "ab", None))]
NAMES = ("name", "size")


def names(**given: str) -> list[str | None]:
    return [row["name"] for row in table(ROWS, NAMES, Query.of(given))["rows"]]


def test_rows_are_searched_filtered_sorted_and_paged():
    assert names() == ["b", "A", "c", "ab", None]
    assert names(search="a") == ["A", "ab"]
    assert names(search="a B") == ["ab"], "all words must be there, in any case"
    assert names(name="a") == ["A"], "a filter is of the whole cell"
    assert names(sort="name") == ["A", "ab", "b", "c", None], "what is missing is last"
    assert names(sort="size", order="desc") == [None, "ab", "c", "A", "b"]
    assert names(offset="1", limit="2") == ["A", "c"]
    assert names(offset="99") == []


def test_the_numbers_say_how_many_there_are():
    found = table(ROWS, NAMES, Query.of({"search": "a", "limit": "1"}), total=70)
    assert (len(found["rows"]), found["matched"], found["kept"], found["total"]) == (1, 2, 5, 70)


@pytest.mark.parametrize("given", [{"limit": "x"}, {"offset": "-1"}, {"limit": "1e3"}, {"offset": "١"},
                                   {"limit": " 5"}])
def test_what_is_no_number_is_an_error_that_names_it(given):
    with pytest.raises(BadQuery, match=f"{next(iter(given))} takes a whole number"):
        Query.of(given)


def test_an_unknown_column_is_an_error_and_a_huge_limit_is_cut():
    with pytest.raises(BadQuery, match="no column is named 'x'; the columns are name, size"):
        table(ROWS, NAMES, Query.of({"sort": "x"}))
    assert Query.of({"limit": "999999999999"}).limit == PAGE_ROWS_MAX
    assert Query.of({"limit": "0"}).limit == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_becomes_json_of_bounded_length_with_the_text_as_it_is(name):
    found = json.loads(json.dumps(cell(name)))
    assert found == name if len(name) <= CELL_CHARS_MAX else found.endswith("… (10,000 characters)")
    assert len(json.dumps(cell({name: [name] * 1000}))) < 20 * CELL_CHARS_MAX * 200


def test_values_that_json_does_not_have_are_replaced():
    deep: list = []
    for _ in range(50):
        deep = [deep]
    for value in (float("nan"), float("inf"), b"\xff" * 10_000, deep, object(), {1: {2: 3}}):
        json.dumps(cell(value), allow_nan=False)
