"""Gossip: how each node's row of the cluster view reaches all others.  Pure.

A row is a node's own report about itself, numbered by its *version*.  A newer version replaces an older one, so repeats
and reordering do no harm.  Gossip does not decide which nodes are in the cluster: rows count only between ``add`` and
``node_ended``, which follow the nodes table, so the rows of a dead node never come back.

Up to ALL_PEERS_MAX nodes, each sends its row to every other.  Beyond, a node passes each new row once to PEERS others:
to its successor on the ring of all nodes, which alone would bring every row to every node, and to random ones, which
need only log(nodes) hops (rumour mongering, Demers et al., PODC 1987, with a ring for certainty).  A new node gets the
row of every other node, except of those where all is free; its predecessor on the ring sends it all rows.

A node sends when its row has changed: within GOSSIP_GATHER_S if it was silent for ``gossip_s``, else when that time
is over.
For a big change, such as from idle to full, a tenth of ``gossip_s`` counts.  Nothing is sent, and no timer runs, while
nothing changes or the node is alone.  A node that placed something on a busy node gets that node's row with the answer.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from zray.base.config import DEFAULTS
from zray.base.ids import INCARNATION_SIZE
from zray.base.named_tuples import NamedTuple
from zray.sched.view import ClusterView
from zray.wire import messages as m

GOSSIP_S = DEFAULTS.gossip_s
ALL_PEERS_MAX = 15
PEERS = 4
# Changes of one turn of the loop go together; far below what a person or a task of 10 ms notices.
GOSSIP_GATHER_S = 0.002
BIG_PART = 0.1  # of gossip_s between two pushes of big changes, and between hops
# Rows of one message: 256 rows of 8 resources are some 40 kB.
ROWS_MAX = 256
# Rows of nodes that the nodes table has not shown us yet.
GOSSIP_EARLY_MAX = 1024
DRAINING_FLAG = 1  # flags


class GossipRow(NamedTuple):
    """A node's report about itself, as it travels."""

    node: bytes
    version: int
    flags: int
    decisions: int  # global scheduling decisions a second, roughly
    available: dict
    wants: list  # [demand, leases] that wait, of some demands, roughly
    total: dict
    labels: dict


class NodeReport(NamedTuple):
    """A node's report about itself; the fields are GossipRow's."""

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
        self.rows: dict[bytes, GossipRow] = {}  # the newest of each node
        self.out: list[tuple[bytes, Any]] = []
        self.refused = 0  # malformed rows
        self.version = 0
        self._random = Random(seed)
        self._ring: list[bytes] = [node]  # all nodes, in order
        self._early: dict[bytes, GossipRow] = {}
        self._last_report: NodeReport | None = None
        self._due: float | None = None  # when to send what changed here
        self._sent_at = float("-inf")
        self._touched = False
        self._sent_version = 0  # version that all others got
        self._fresh: dict[bytes, None] = {}  # nodes whose rows are to be passed on
        self._fresh_due = 0.0
        self._passed_at = float("-inf")
        self._owed: dict[bytes, bool] = {}  # new peers -> do they get all rows, or ours
        self._owed_due = 0.0

    # -------------------------------------------------------------- members

    def add(self, node: bytes, total: Mapping[str, int], labels: Mapping[str, str], now: float) -> None:
        """A node joined, with all its resources free until its first row."""
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

    def node_ended(self, node: bytes, now: float) -> None:
        """A node died or left: its row is void for ever."""
        if node not in self.view.row_of or node == self.node:
            return
        followed = self._successor() == node
        self.view.remove(node)
        self._ring.remove(node)
        self.rows.pop(node, None)
        self._fresh.pop(node, None)
        self._owed.pop(node, None)
        if followed and len(self._ring) > ALL_PEERS_MAX + 1:  # rows that the dead node did not pass on any more
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
        """This node's row has changed; ``step`` will ask for its report when it is time to send it."""
        if len(self._ring) == 1:
            return
        self._touched = True
        due = max(now + GOSSIP_GATHER_S, self._sent_at + self.gossip_s * (BIG_PART if big else 1.0))
        self._due = due if self._due is None else min(self._due, due)

    def on_rows(self, rows: list, now: float) -> None:
        """Rows from a peer; malformed ones are counted and dropped."""
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

    def _take(self, row: GossipRow) -> bool:
        try:
            self.view.set_row(row.node, row.total, row.available, row.labels, draining=bool(row.flags & DRAINING_FLAG))
        except (ValueError, TypeError, AttributeError):
            self.refused += 1
            return False
        self.rows[row.node] = row
        return True

    def correction(self, words: NodeReport) -> Any:
        """The row for a peer that was wrong about this node: it gets it at once, before the others do."""
        return m.ViewRows([self._own(words)])

    # -------------------------------------------------------------- the step

    def step(self, now: float, words: Callable[[float], NodeReport]) -> None:
        """Send what is due.  ``words``: this node's report, given the seconds since the last one was sent."""
        if self._due is not None and self._due <= now:
            self._send_own(now, words(now - self._sent_at))
        if self._owed and self._owed_due <= now:
            self._introduce(now, words)
        if self._fresh and self._fresh_due <= now:
            self._passed_at = now
            fresh, self._fresh = list(self._fresh), {}
            rows = [row for row in map(self._newest, fresh) if row is not None]
            for peer in self._peers():
                self._send(peer, [row for row in rows if row.node != peer])

    def _send_own(self, now: float, report: NodeReport) -> None:
        self._due = None
        own = self._own(report, self._touched)
        self._touched = False
        if own.version == self._sent_version:
            return
        self._sent_version, self._sent_at = own.version, now
        for peer in self._peers():
            self._send(peer, [own])
        if report.decisions:
            self._due = now + 1.0  # a rate falls without anything happening

    def _own(self, report: NodeReport, touched: bool = False) -> GossipRow:
        """Our row.  A change that came and went is a new version too: it shows the placing node that it is over."""
        if touched or report != self._last_report:
            self.version += 1
            self._last_report = report
            self.rows[self.node] = GossipRow(
                self.node, self.version, DRAINING_FLAG * report.draining, report.decisions, report.available,
                list(report.wants), report.total, dict(report.labels))
        return self.rows[self.node]

    def _introduce(self, now: float, words: Callable[[float], NodeReport]) -> None:
        owed, self._owed = self._owed, {}
        report = words(now - self._sent_at) if self._last_report is None or self._touched else self._last_report
        # Other nodes take a node for idle until it reports, so an idle one need not.
        if self.version or report != NodeReport(report.total, report.total, report.labels):
            self._own(report)
        for peer, everything in owed.items():
            self._send(peer, [row for node, row in self.rows.items()
                              if node != peer and (everything or node == self.node)])

    def _newest(self, node: bytes) -> GossipRow | None:
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

    def _send(self, peer: bytes, rows: list[GossipRow]) -> None:
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


def _row(wire: Any) -> GossipRow | None:
    if not isinstance(wire, (list, tuple)) or len(wire) < len(GossipRow._fields):
        return None
    row = GossipRow(*wire[:len(GossipRow._fields)])
    sound = (isinstance(row.node, bytes) and len(row.node) == INCARNATION_SIZE and type(row.version) is int
             and type(row.flags) is int and type(row.decisions) is int and row.decisions >= 0
             and isinstance(row.available, dict) and isinstance(row.total, dict) and isinstance(row.labels, dict)
             and isinstance(row.wants, (list, tuple)))
    return row if sound else None
