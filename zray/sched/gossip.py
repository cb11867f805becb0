"""Gossip: how each node's row of the cluster view reaches all others.  Pure.

A row is a node's own word about itself, numbered by its *version*; a newer version replaces an older one, so repeats
and reordering do no harm.  Who is in the cluster is not gossip's to say: rows count only between ``add`` and
``node_gone``, which follow the nodes table, so what a dead node said never comes back.

Up to ALL_PEERS_MAX nodes, each tells every other about itself.  Beyond, whoever learns something new tells PEERS
others once: its successor on the ring of all nodes, which alone would bring every row to everybody, and random ones,
which make that a matter of log(nodes) hops (rumour mongering, Demers et al., PODC 1987, with a ring for certainty).  A
new node is told by every other about itself, unless there is nothing to tell but that all is free; who becomes its
predecessor tells it all.

A node speaks when its row has changed: within GOSSIP_GATHER_S if it has been silent for ``gossip_s`` (for a big change,
as from idle to full, a tenth of that), else when that time is over.  Nothing is sent, and no timer runs, while nothing
changes or the node is alone.  Who placed something on a node that was busy is told that node's row with the answer.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, NamedTuple

from zray import messages as m
from zray.config import DEFAULTS
from zray.ids import INCARNATION_SIZE
from zray.sched.view import ClusterView

GOSSIP_S = DEFAULTS.gossip_s
ALL_PEERS_MAX = 15
PEERS = 4
# What changes in one turn of the loop goes together; far below what a person or a task of 10 ms notices.
GOSSIP_GATHER_S = 0.002
BIG_PART = 0.1  # of gossip_s between two pushes of big changes, and between hops
# Rows of one message: 256 rows of 8 resources are some 40 kB.
ROWS_MAX = 256
# Rows of nodes that the nodes table has not shown us yet.
GOSSIP_EARLY_MAX = 1024
DRAINING_FLAG = 1  # flags


class Row(NamedTuple):
    """What a node says of itself, as it travels."""

    node: bytes
    version: int
    flags: int
    decisions: int  # global scheduling decisions a second, roughly
    available: dict
    wants: list  # [demand, leases] that wait, of some demands, roughly
    total: dict
    labels: dict


class Words(NamedTuple):
    """What a node has to say; the fields are Row's."""

    available: dict[str, int]
    total: dict[str, int]
    labels: Mapping[str, str] = {}
    wants: tuple = ()
    decisions: int = 0
    draining: bool = False


class Gossip:
    """Keeps ``view`` up to date; ``out`` gathers (node, ViewRows)."""

    def __init__(self, node: bytes, view: ClusterView, *, gossip_s: float = GOSSIP_S, seed: int = 0) -> None:
        self.node, self.view, self.gossip_s = node, view, gossip_s
        self.rows: dict[bytes, Row] = {}  # the newest of each node
        self.out: list[tuple[bytes, Any]] = []
        self.refused = 0  # malformed rows
        self.version = 0
        self._random = Random(seed)
        self._ring: list[bytes] = [node]  # all nodes, in order
        self._early: dict[bytes, Row] = {}
        self._said: Words | None = None
        self._due: float | None = None  # when to say what changed here
        self._spoke_at = float("-inf")
        self._touched = False
        self._spoken = 0  # version that all were told
        self._fresh: dict[bytes, None] = {}  # nodes whose rows are to be passed on
        self._fresh_due = 0.0
        self._passed_at = float("-inf")
        self._owed: dict[bytes, bool] = {}  # new peers -> do they get all rows, or ours
        self._owed_due = 0.0

    # -------------------------------------------------------------- members

    def add(self, node: bytes, total: Mapping[str, int], labels: Mapping[str, str], now: float) -> None:
        """A node joined, with all its resources free until it says otherwise."""
        if node in self.view.row_of:
            return
        self.view.add(node, total, labels)
        insort(self._ring, node)
        if not self._owed:
            self._owed_due = now + GOSSIP_GATHER_S
        self._owed[node] = self._successor() == node
        early = self._early.pop(node, None)
        if early is not None:
            self._take(early)

    def node_gone(self, node: bytes, now: float) -> None:
        """A node died or left: its row is void for ever."""
        if node not in self.view.row_of or node == self.node:
            return
        followed = self._successor() == node
        self.view.remove(node)
        self._ring.remove(node)
        self.rows.pop(node, None)
        self._fresh.pop(node, None)
        self._owed.pop(node, None)
        if followed and len(self._ring) > ALL_PEERS_MAX + 1:  # what the dead one did not pass on any more
            if not self._owed:
                self._owed_due = now + GOSSIP_GATHER_S
            self._owed[self._successor()] = True
        if len(self._ring) == 1:
            self._due = None

    def _successor(self) -> bytes:
        place = bisect_right(self._ring, self.node)
        return self._ring[place % len(self._ring)]

    # -------------------------------------------------------------- words

    def changed(self, now: float, *, big: bool = False) -> None:
        """This node's row has changed; ``step`` will ask for the words when it is time to say them."""
        if len(self._ring) == 1:
            return
        self._touched = True
        due = max(now + GOSSIP_GATHER_S, self._spoke_at + self.gossip_s * (BIG_PART if big else 1.0))
        self._due = due if self._due is None else min(self._due, due)

    def on_rows(self, rows: list, now: float) -> None:
        """Rows from a peer; what is malformed is counted and dropped."""
        for wire in rows[:ROWS_MAX]:
            row = _row(wire)
            if row is None:
                self.refused += 1
                continue
            node = row.node
            known = self.rows.get(node) or self._early.get(node)
            if node == self.node or (known is not None and known.version >= row.version):
                continue
            if node in self.view.row_of:
                if not self._take(row):
                    continue
            else:
                while len(self._early) >= GOSSIP_EARLY_MAX:
                    del self._early[next(iter(self._early))]
                self._early[node] = row
            if len(self._ring) > ALL_PEERS_MAX + 1:
                if not self._fresh:
                    self._fresh_due = max(now + GOSSIP_GATHER_S, self._passed_at + self.gossip_s * BIG_PART)
                self._fresh[node] = None

    def _take(self, row: Row) -> bool:
        try:
            self.view.set_row(row.node, row.total, row.available, row.labels, draining=bool(row.flags & DRAINING_FLAG))
        except (ValueError, TypeError, AttributeError):
            self.refused += 1
            return False
        self.rows[row.node] = row
        return True

    def correction(self, words: Words) -> Any:
        """What to send at once to a peer that was wrong about us, before the others hear it in time."""
        return m.ViewRows([self._own(words)])

    # -------------------------------------------------------------- the step

    def step(self, now: float, words: Callable[[float], Words]) -> None:
        """Send what is due.  ``words``: what this node has to say, given the seconds since it spoke last."""
        if self._due is not None and self._due <= now:
            self._speak(now, words(now - self._spoke_at))
        if self._owed and self._owed_due <= now:
            self._introduce(now, words)
        if self._fresh and self._fresh_due <= now:
            self._passed_at = now
            fresh, self._fresh = list(self._fresh), {}
            rows = [row for row in map(self._newest, fresh) if row is not None]
            for peer in self._peers():
                self._send(peer, [row for row in rows if row.node != peer])

    def _speak(self, now: float, said: Words) -> None:
        self._due = None
        own = self._own(said, self._touched)
        self._touched = False
        if own.version == self._spoken:
            return
        self._spoken, self._spoke_at = own.version, now
        for peer in self._peers():
            self._send(peer, [own])
        if said.decisions:
            self._due = now + 1.0  # a rate falls without anything happening

    def _own(self, said: Words, touched: bool = False) -> Row:
        """Our row.  What went and came back is a new version too: it tells who placed something that it is over."""
        if touched or said != self._said:
            self.version += 1
            self._said = said
            self.rows[self.node] = Row(self.node, self.version, DRAINING_FLAG * said.draining, said.decisions,
                                       said.available, list(said.wants), said.total, dict(said.labels))
        return self.rows[self.node]

    def _introduce(self, now: float, words: Callable[[float], Words]) -> None:
        owed, self._owed = self._owed, {}
        said = words(now - self._spoke_at) if self._said is None or self._touched else self._said
        if self.version or said != Words(said.total, said.total, said.labels):  # else it is what everybody assumes
            self._own(said)
        for peer, everything in owed.items():
            self._send(peer, [row for node, row in self.rows.items()
                              if node != peer and (everything or node == self.node)])

    def _newest(self, node: bytes) -> Row | None:
        return self.rows.get(node) or self._early.get(node)

    def _peers(self) -> list[bytes]:
        ring = self._ring
        if len(ring) <= ALL_PEERS_MAX + 1:
            return [peer for peer in ring if peer != self.node]
        chosen = {self._successor(): None}
        while len(chosen) < PEERS:
            peer = ring[self._random.randrange(len(ring))]
            if peer != self.node:
                chosen[peer] = None
        return list(chosen)

    def _send(self, peer: bytes, rows: list[Row]) -> None:
        for start in range(0, len(rows), ROWS_MAX):
            self.out.append((peer, m.ViewRows(rows[start:start + ROWS_MAX])))

    def deadline(self) -> float | None:
        if not self._owed and not self._fresh:
            return self._due
        times = [self._due] if self._due is not None else []
        if self._owed:
            times.append(self._owed_due)
        if self._fresh:
            times.append(self._fresh_due)
        return min(times, default=None)

    def decisions(self) -> list[int]:
        """Decisions a second that nodes report."""
        return [row.decisions for row in self.rows.values()]

    def check(self) -> None:
        self.view.check()
        assert self._ring == sorted(self.view.row_of), "the ring is the members of the view"
        assert set(self.rows) <= set(self.view.row_of) and not set(self._early) & set(self.view.row_of)
        assert len(self._early) <= GOSSIP_EARLY_MAX
        assert all(row.node == node for node, row in self.rows.items())


def _row(wire: Any) -> Row | None:
    if not isinstance(wire, (list, tuple)) or len(wire) < len(Row._fields):
        return None
    row = Row(*wire[:len(Row._fields)])
    sound = (isinstance(row.node, bytes) and len(row.node) == INCARNATION_SIZE and type(row.version) is int
             and type(row.flags) is int and type(row.decisions) is int and row.decisions >= 0
             and isinstance(row.available, dict) and isinstance(row.total, dict) and isinstance(row.labels, dict)
             and isinstance(row.wants, (list, tuple)))
    return row if sound else None
