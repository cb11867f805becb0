"""ClusterView: the total and the free resources of every node, as rows of int64.  Pure.

Rows are nodes, columns are resources.  A lone node keeps plain lists and never loads numpy; ``use(kernels)`` turns the
same view into contiguous int64 arrays once kernels are loaded (and back).  Rows keep their number while the node is
alive; a removed node's row is void until another node takes it, lowest first, so that row order is deterministic.

Conservation: available = total - acquired, per row and column, always.  ``acquire`` refuses to go below zero unless the
caller oversubscribes (a worker that wakes up takes its CPU back at once).  ``release`` refuses to pass the total.

The rows of other nodes are reports: ``set_row`` writes a node's last one, in absolute numbers.  What this node acquires
on such a row is a tentative placement, laid over it until the node's next report, which includes it or not (``stamps``
counts the reports).  Names that begin with ``sparse`` (node:10.0.0.1: one for each node) get a column when a demand
names them: columns for all would make every decision of a large cluster as long as the cluster.  Until then they count
as free.
Masks of rows that policies admit are kept in ``masks`` until anything that they depend on changes: members, totals,
labels, draining (``generation``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import Any

from zray.sched.kernels.loading import Kernels
from zray.sched.resources import UNITS_MAX, Demand, ResourceIndex, checked_units, describe

ROWS_AT_FIRST = 4  # arrays double from here


class ClusterView:
    """Rows of nodes; ``total`` and ``available`` are lists of lists, or arrays once compiled kernels are in use."""

    def __init__(self, kernels: Kernels | None = None, sparse: str | None = None) -> None:
        self.sparse = sparse
        self.kernels = Kernels.plain()
        self.index = ResourceIndex()
        self.nodes: list[bytes | None] = []  # node id by row, None where void
        self.labels: list[Mapping[str, str]] = []
        self.row_of: dict[bytes, int] = {}
        self._void: list[int] = []
        self._total: Any = []
        self._available: Any = []
        self._alive: Any = []
        self._acquired: list[dict[int, int]] = []  # by row: column -> units; check() compares with it
        self._stated: list[Mapping[str, int]] = []  # by row: the total, under the names of the node's report
        self.stamps: list[int] = []  # by row: rises with every set_row, add and remove
        self.changes = 0  # rises with every change of what any row has free, placements aside
        self.generation = 0
        self.masks: dict[Any, Any] = {}
        self.draining: dict[int, None] = {}  # rows that take nothing new
        if kernels is not None:
            self.use(kernels)

    def __len__(self) -> int:
        """Rows, void ones included."""
        return len(self.nodes)

    # -------------------------------------------------------------- what kernels read

    @property
    def total(self) -> Any:
        return self._total[: len(self.nodes)] if self.kernels.compiled else self._total

    @property
    def available(self) -> Any:
        return self._available[: len(self.nodes)] if self.kernels.compiled else self._available

    @property
    def alive(self) -> Any:
        """1 where a live node is, else 0."""
        return self._alive[: len(self.nodes)] if self.kernels.compiled else self._alive

    def use(self, kernels: Kernels) -> None:
        """Keep the rows in the form that ``kernels`` take from now on."""
        rows = len(self.nodes)
        total, available, alive = (_rows(part, rows) for part in (self._total, self._available, self._alive))
        self.kernels = kernels
        self._total = kernels.matrix(total, len(self.index))
        self._available = kernels.matrix(available, len(self.index))
        self._alive = kernels.vector(alive)
        self._regenerate()

    def _regenerate(self) -> None:
        self.generation += 1
        self.changes += 1
        self.masks.clear()

    # -------------------------------------------------------------- nodes

    def add(self, node: bytes, total: Mapping[str, int], labels: Mapping[str, str] | None = None) -> int:
        """A node joins with all its resources free; its row."""
        if node in self.row_of:
            raise ValueError(f"node {node.hex()} is in the view already")
        have = checked_units(total)
        self._columns(have)
        row = heappop(self._void) if self._void else self._grow()
        self.nodes[row], self.labels[row], self.row_of[node] = node, dict(labels or {}), row
        self._acquired[row], self._stated[row] = {}, have
        self._alive[row] = 1
        self.stamps[row] += 1
        self._regenerate()
        for name, value in have.items():
            if (column := self.index.columns.get(name)) is not None:
                self._total[row][column] = self._available[row][column] = value
        return row

    def update(self, node: bytes, total: Mapping[str, int], labels: Mapping[str, str] | None = None) -> None:
        """The node now has ``total``; acquired resources stay so (available may be below zero until a release)."""
        row, have = self.row_of[node], checked_units(total)
        self._columns(have)
        for column, name in enumerate(self.index.names):
            value = have.get(name, 0)
            self._total[row][column] = value
            self._available[row][column] = value - self._acquired[row].get(column, 0)
        if labels is not None:
            self.labels[row] = dict(labels)
        self._stated[row] = have
        self._regenerate()

    def set_row(self, node: bytes, total: Mapping[str, int], available: Mapping[str, int],
                labels: Mapping[str, str] | None = None, *, draining: bool = False) -> None:
        """The node's own report: it has ``total``, of which ``available`` is free (below zero where oversubscribed).

        Placements on the row before are in that report already, or were refused.  ValueError, and no change, for
        malformed amounts.
        """
        row = self.row_of[node]
        if total != self._stated[row]:
            have = checked_units(total)
            _check_available(have, available)
            self.update(node, have)
        else:
            _check_available(total, available)
        if labels is not None and labels != self.labels[row]:
            self.labels[row] = dict(labels)
            self._regenerate()
        if draining != (row in self.draining):
            self.drain(node, draining)
        free, acquired, columns = [0] * len(self.index), {}, self.index.columns
        for name, value in self._stated[row].items():
            if (column := columns.get(name)) is None:
                continue
            left = available.get(name, 0)
            free[column] = left
            if left != value:
                acquired[column] = value - left
        if self.kernels.compiled:
            self._available[row] = free
        else:
            self._available[row][:] = free
        self._acquired[row] = acquired
        self.stamps[row] += 1
        self.changes += 1

    def drain(self, node: bytes, draining: bool = True) -> None:
        """Policies admit the node no more (or again)."""
        row = self.row_of[node]
        if draining:
            self.draining[row] = None
        else:
            self.draining.pop(row, None)
        self._regenerate()

    def remove(self, node: bytes) -> int:
        """The node is gone, with everything acquired on it; its row is void."""
        row = self.row_of.pop(node)
        self.nodes[row], self.labels[row], self._acquired[row], self._stated[row] = None, {}, {}, {}
        self._alive[row] = 0
        self.stamps[row] += 1
        self.draining.pop(row, None)
        self._regenerate()
        for column in range(len(self.index)):
            self._total[row][column] = self._available[row][column] = 0
        heappush(self._void, row)
        return row

    # -------------------------------------------------------------- amounts

    def demand(self, values: Mapping[str, int]) -> Demand | None:
        """The sparse form of ``values``; None when it names a resource that no node has."""
        for name in values:
            if name not in self.index.columns and self._is_sparse(name):
                self._open(name)
        return self.index.demand(values)

    def fits(self, row: int, demand: Demand) -> bool:
        """Whether all of ``demand`` is free on the row now."""
        free = self._available[row]
        for column, value in demand:  # noqa: SIM110  (half the time of all(...) and this is the grant path)
            if free[column] < value:
                return False
        return True

    def covers(self, row: int, demand: Demand) -> bool:
        """Whether ``demand`` would fit if all of the row were free."""
        return all(self._total[row][column] >= value for column, value in demand)

    def acquire(self, row: int, demand: Demand, *, oversubscribe: bool = False) -> None:
        """Take ``demand``; ValueError, and nothing taken, when it does not fit (unless ``oversubscribe``)."""
        if not oversubscribe and not self.fits(row, demand):
            raise ValueError(f"row {row} does not have {describe(self.index.named(demand))} free")
        free, acquired = self._available[row], self._acquired[row]
        for column, value in demand:
            free[column] -= value
            acquired[column] = acquired.get(column, 0) + value

    def release(self, row: int, demand: Demand) -> None:
        """Give ``demand`` back; ValueError, and nothing given, when that is more than was taken."""
        free, acquired = self._available[row], self._acquired[row]
        for column, value in demand:
            if acquired.get(column, 0) < value:
                raise ValueError(f"row {row} gives back more {self.index.names[column]} than was taken")
        for column, value in demand:
            free[column] += value
            acquired[column] -= value

    def taken(self, row: int, demand: Demand, count: int) -> None:
        """A kernel took ``count`` times ``demand`` from ``available``: keep account of it."""
        acquired = self._acquired[row]
        for column, value in demand:
            acquired[column] = acquired.get(column, 0) + count * value

    def named(self, row: int, what: str = "available") -> dict[str, int]:
        """``available`` or ``total`` of a row as units by name, without resources that the node never had."""
        values = self._available[row] if what == "available" else self._total[row]
        out = {name: int(values[column]) for column, name in enumerate(self.index.names) if self._total[row][column]}
        if self.sparse is not None:
            out.update((name, value) for name, value in self._stated[row].items() if name not in self.index.columns)
        return out

    # -------------------------------------------------------------- growth

    def _columns(self, names: Iterable[str]) -> None:
        for name in names:
            if not self._is_sparse(name):
                self._column(name)

    def _is_sparse(self, name: str) -> bool:
        return self.sparse is not None and name.startswith(self.sparse)

    def _open(self, name: str) -> None:
        """A demand names a resource without a column: make one; no change when no node has it."""
        rows = [row for row, said in enumerate(self._stated) if name in said]
        if not rows:
            return
        self._column(name)
        column = self.index.columns[name]
        for row in rows:
            self._total[row][column] = self._available[row][column] = self._stated[row][name]
        self._regenerate()

    def _column(self, name: str) -> None:
        if name in self.index.columns:
            return
        self.index.add(name)
        if self.kernels.compiled:
            self.use(self.kernels)  # one copy; a new resource name is rare
        else:
            for values in (*self._total, *self._available):
                values.append(0)

    def _grow(self) -> int:
        row = len(self.nodes)
        if self.kernels.compiled:
            if row == len(self._alive):
                width, more = len(self.index), max(row, ROWS_AT_FIRST)
                zeros = [[0] * width] * more
                self._total = self.kernels.matrix([*self._total, *zeros], width)
                self._available = self.kernels.matrix([*self._available, *zeros], width)
                self._alive = self.kernels.vector([*self._alive, *[0] * more])
        else:
            self._total.append([0] * len(self.index))
            self._available.append([0] * len(self.index))
            self._alive.append(0)
        self.nodes.append(None)
        self.labels.append({})
        self._acquired.append({})
        self._stated.append({})
        self.stamps.append(0)
        return row

    def check(self) -> None:
        self.index.check()
        rows = len(self.nodes)
        assert len(self.total) == len(self.available) == len(self.alive) == len(self.labels) == rows
        assert sorted(self._void) == [row for row, node in enumerate(self.nodes) if node is None]
        assert self.row_of == {node: row for row, node in enumerate(self.nodes) if node is not None}
        for row, node in enumerate(self.nodes):
            assert bool(self._alive[row]) == (node is not None)
            assert node is not None or row not in self.draining
            for column, name in enumerate(self.index.names):
                taken, total = self._acquired[row].get(column, 0), self._total[row][column]
                assert taken >= 0 and total >= 0
                assert self._available[row][column] == total - taken, f"{name} of row {row} is not conserved"


def _check_available(total: Mapping[str, int], available: Mapping[str, int]) -> None:
    for name, value in available.items():
        if type(value) is not int or not -UNITS_MAX <= value <= total.get(name, 0):
            raise ValueError(f"{value!r} units of resource {name!r} cannot be free of {total.get(name, 0)}")


def _rows(values: Any, rows: int) -> list:
    return [list(map(int, value)) if hasattr(value, "__len__") else int(value) for value in values[:rows]]
