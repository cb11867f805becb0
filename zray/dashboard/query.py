"""What a page asks of its table: words to search, columns to match, order, and a part of the rows.  Pure.

The page gets only the rows that it shows, with cells of a bounded length, however many there are and whatever is in
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PAGE_ROWS = 50  # rows of a table's page, unless the query says so
PAGE_ROWS_MAX = 500
CELL_CHARS_MAX = 400  # characters of a cell of a table
TEXT_MAX = 20_000  # characters of a text of its own, such as an error
SEARCH_MAX = 200
NESTED_MAX = 4  # of maps in maps


class BadQuery(ValueError):
    """The query is wrong; the message says how."""


@dataclass(frozen=True)
class Query:
    """One question of a page."""

    search: str = ""
    sort: str = ""
    descending: bool = False
    offset: int = 0
    limit: int = PAGE_ROWS
    where: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Query:
        """From the parameters of an address; those that are not of tables are in ``where``."""
        where = {name: value for name, value in given.items() if name not in _OWN}
        return cls(given.get("search", "")[:SEARCH_MAX].strip(), given.get("sort", ""), given.get("order") == "desc",
                   number(given, "offset", 0, 1 << 31), max(1, number(given, "limit", PAGE_ROWS, PAGE_ROWS_MAX)), where)

    def wanted(self, name: str) -> str:
        """A parameter that must be there."""
        if not self.where.get(name):
            raise BadQuery(f"the parameter {name} is missing")
        return self.where[name]


_OWN = ("view", "search", "sort", "order", "offset", "limit")


def number(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A whole number from 0 to ``most``."""
    text = given.get(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise BadQuery(f"{name} takes a whole number from 0 to {most}, not {text[:40]!r}")
    return min(int(text), most)


def table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], query: Query, total: int = 0) -> dict[str, Any]:
    """The part of the rows that the query wants.  ``total``: of all, where ``rows`` are some of them."""
    names = list(columns)
    if query.sort and query.sort not in names:
        raise BadQuery(f"no column is named {query.sort[:40]!r}; the columns are {', '.join(names)}")
    equal = {name: value for name, value in query.where.items() if name in names and value}
    words = query.search.lower().split()
    found = [row for row in rows if _matches(row, names, equal, words)] if equal or words else list(rows)
    if query.sort:
        found.sort(key=lambda row: _key(row.get(query.sort)), reverse=query.descending)
    part = found[query.offset:query.offset + query.limit]
    return {"rows": [{name: cell(row.get(name)) for name in names} for row in part], "matched": len(found),
            "kept": len(rows), "total": max(total, len(rows)), "offset": query.offset, "limit": query.limit}


def _matches(row: Mapping[str, Any], names: Sequence[str], equal: Mapping[str, str], words: Sequence[str]) -> bool:
    if any(str(row.get(name) if row.get(name) is not None else "").lower() != value.lower()
           for name, value in equal.items()):
        return False
    if not words:
        return True
    text = " ".join(str(row.get(name)) for name in names if row.get(name)).lower()
    return all(word in text for word in words)


def _key(value: Any) -> tuple[int, Any]:
    """Numbers, then texts, then what is missing."""
    if isinstance(value, (int, float)):
        return 0, value
    return (2, "") if value is None else (1, str(value).lower())


def cell(value: Any, length: int = CELL_CHARS_MAX, depth: int = 0) -> Any:
    """A value of bounded length that JSON can have."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, str):
        return value if len(value) <= length else f"{value[:length]}… ({len(value):,} characters)"
    if isinstance(value, bytes):
        return value[:length // 2].hex()
    if depth < NESTED_MAX and isinstance(value, Mapping):
        return {str(cell(str(key), length)): cell(item, length, depth + 1) for key, item in list(value.items())[:100]}
    if depth < NESTED_MAX and isinstance(value, (list, tuple)):
        return [cell(item, length, depth + 1) for item in value[:200]]
    return cell(str(value), length)


def whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """All of a row, with its texts up to TEXT_MAX."""
    return {str(name): cell(value, TEXT_MAX) for name, value in row.items()}
