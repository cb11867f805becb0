"""Resources as exact integers: one unit is 1/10000 of a CPU, a GPU, a byte of memory or whatever a name counts.

Sums and differences of int units never drift, so a node that gave everything back has exactly what it started with.
``Units`` below means such an int.  A *ResourceVector* is a dense list of units, one per column of a ResourceIndex.  A
*Demand* is the sparse form, ``((column, units), ...)`` by rising column; the hot paths walk it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal

UNIT = 10_000
# 2**60 units are 115 TB of memory; two such amounts still add up in an int64.
UNITS_MAX = 2**60
AMOUNT_MAX = UNITS_MAX // UNIT

CPU, GPU, MEMORY, OBJECT_STORE_MEMORY = "CPU", "GPU", "memory", "object_store_memory"
NODE_PREFIX = "node:"  # node:<address> is 1 on that node, node:__internal_head__ on the first one
IN_BYTES = (MEMORY, OBJECT_STORE_MEMORY)
PREDEFINED = (CPU, GPU, MEMORY, OBJECT_STORE_MEMORY)
CPU_COLUMN, GPU_COLUMN = 0, 1

ResourceVector = list[int]
Demand = tuple[tuple[int, int], ...]


def units(amount: int | float, name: str) -> int:
    """The amount of resource ``name`` in units of 1/10000.

    Takes ints, floats and what converts to them exactly (numpy scalars, Fraction).  TypeError for bool, str and
    other types; ValueError for negative, NaN, infinite, finer than 1/10000, or above AMOUNT_MAX.  Binary floats are
    taken at the decimal they print as: 0.1 is 1000 units, and 0.00005 is too fine.  Bytes are whole: 0.3 * total, whose
    decimals mean nothing, is rounded down.
    """
    allowed = f"resource {name!r} takes a number from 0 to {AMOUNT_MAX}, in steps of 1/{UNIT}"
    if isinstance(amount, (bool, str, bytes)) or not hasattr(amount, "__float__"):
        raise TypeError(f"{allowed}, not {amount!r} ({type(amount).__name__})")
    if not isinstance(amount, int):
        as_float = float(amount)
        if not math.isfinite(as_float):
            raise ValueError(f"{allowed}, not {amount!r}")
        if as_float.is_integer() or name in IN_BYTES:
            amount = math.floor(as_float)
    if amount < 0:
        raise ValueError(f"{allowed}, not {amount!r}: negative")
    if amount > AMOUNT_MAX:
        raise ValueError(f"{allowed}, not {amount!r}: too much")
    if isinstance(amount, int):
        return amount * UNIT
    scaled = Decimal(repr(float(amount))) * UNIT
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{allowed}, not {amount!r}: too fine")
    return int(scaled)


def amount(value: int) -> int | float:
    """Units as a user wrote them: an int where the amount is whole, else a float."""
    whole, rest = divmod(value, UNIT)
    return value / UNIT if rest else whole


def amounts(values: Mapping[str, int]) -> dict[str, float]:
    """Units by name to floats by name, as ``cluster_resources()`` shows them."""
    return {name: value / UNIT for name, value in values.items()}


def describe(values: Mapping[str, int]) -> str:
    """``{'CPU': 10000, 'GPU': 5000}`` as ``CPU: 1, GPU: 0.5``; ``nothing`` when empty."""
    return ", ".join(f"{name}: {amount(value)}" for name, value in values.items() if value) or "nothing"


def checked_units(values: Mapping[str, int]) -> dict[str, int]:
    """A copy of a units mapping that came from a peer, without zeros; ValueError where it is not one."""
    out = {}
    for name, value in values.items():
        if type(name) is not str or not name:
            raise ValueError(f"a resource name is a non-empty str, not {name!r}")
        if type(value) is not int or not 0 <= value <= UNITS_MAX:
            raise ValueError(f"resource {name!r} takes 0 to {UNITS_MAX} units, not {value!r}")
        if value:
            out[name] = value
    return out


class ResourceIndex:
    """Names to columns.  CPU, GPU, memory and object_store_memory come first; other names join at the end, for ever."""

    __slots__ = ("columns", "names")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = []
        self.columns: dict[str, int] = {}
        for name in (*PREDEFINED, *names):
            self.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str) -> int:
        """The column of ``name``, a new one if it has none."""
        column = self.columns.get(name)
        if column is None:
            column = self.columns[name] = len(self.names)
            self.names.append(name)
        return column

    def demand(self, values: Mapping[str, int]) -> Demand | None:
        """The sparse form of ``values``; None when it names a resource that no column has (no node ever had it).

        It adds no column: only resources that nodes have grow the matrices, not those that users ask for.
        """
        pairs = []
        for name, value in values.items():
            if value:
                column = self.columns.get(name)
                if column is None:
                    return None
                pairs.append((column, value))
        return tuple(sorted(pairs))

    def vector(self, demand: Demand) -> ResourceVector:
        """The dense form of a Demand, at today's width."""
        out = [0] * len(self.names)
        for column, value in demand:
            out[column] = value
        return out

    def named(self, pairs: Iterable[tuple[int, int]]) -> dict[str, int]:
        """(column, units) pairs back to units by name."""
        return {self.names[column]: value for column, value in pairs}

    def check(self) -> None:
        assert self.names[: len(PREDEFINED)] == list(PREDEFINED)
        assert self.columns == {name: column for column, name in enumerate(self.names)}
