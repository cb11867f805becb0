"""Filters of rows: ``(column, "=" or "!=", value)``, all of which must hold.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zray.base.errors import did_you_mean
from zray.state.errors import UnknownColumn

PREDICATES = ("=", "!=")

Filter = tuple[str, str, Any]


def checked(filters: Iterable[Sequence[Any]] | None, known: Iterable[str], what: str) -> list[Filter]:
    """The filters with their columns as the rows name them.  ValueError for what is no filter of these rows."""
    columns = {name.lower(): name for name in known}
    found = []
    for each in filters or ():
        if isinstance(each, str) or not isinstance(each, Sequence) or len(each) != 3:
            raise ValueError(f'a filter is (column, "=" or "!=", value), not {each!r}')
        key, predicate, value = each
        if predicate not in PREDICATES:
            raise ValueError(f"Unsupported filter predicate {predicate} is given. Available predicates: "
                             f"{', '.join(PREDICATES)}.")
        name = columns.get(str(key).lower())
        if name is None:
            raise UnknownColumn(f"The given filter column {key} is not supported by {what}"
                                f"{did_you_mean(str(key), columns)}. "
                                f"Supported filter columns: {', '.join(sorted(columns.values()))}")
        found.append((name, predicate, value))
    return found


def matcher(filters: Sequence[Filter]) -> Callable[[dict[str, Any]], bool]:
    """Whether a row passes all filters."""
    def matches(row: dict[str, Any]) -> bool:
        return all(equal(row.get(name), value) == (predicate == "=") for name, predicate, value in filters)

    return matches


def equal(found: Any, wanted: Any) -> bool:
    """Whether a cell has that value; texts match in any case, and numbers and booleans also as text."""
    if found is None or wanted is None:
        return found is wanted or str(found).lower() == str(wanted).lower()
    if isinstance(found, bool) or isinstance(wanted, bool):
        return str(found).lower() == str(wanted).lower()
    if isinstance(found, (int, float)):
        try:
            return float(found) == float(wanted)
        except (TypeError, ValueError):
            return False
    return str(found).lower() == str(wanted).lower()
