"""The nodes table as one node's service sees it, and its changes to the states of nodes.  Pure.

    alive --drain--> draining --no part in the control store any more--> left
      '-----------------'------ declared dead ------> dead

Each change is one compare-and-set on the row.  Callers repeat a change that they still want after the row has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zray.base import ids
from zray.gcs.client.client import Call, GcsClient
from zray.gcs.configuration.admission import described, parse_row, with_state
from zray.gcs.configuration.control import ALIVE, DEAD, DRAINING, LEFT, NodeRow
from zray.gcs.replica.tables import NODES, Change


class NodesTable:
    """Rows of the nodes table; ``settled`` is called after each answer to a change of this node."""

    def __init__(self, client: GcsClient, settled: Callable[[], None]) -> None:
        self.ended: dict[bytes, str] = {}  # nodes that were declared dead -> why
        self.condemned: set[bytes] = set()  # nodes that this node has declared dead, until their rows say so
        self._client = client
        self._settled = settled
        self._values: dict[bytes, bytes] = {}  # key -> value of the nodes table
        self._changing: set[bytes] = set()  # nodes whose rows have a compare-and-set in flight

    def update(self, reset: bool, changes: list[Change]) -> dict[bytes, NodeRow]:
        """Take in changes of the table; all rows that make sense, by node."""
        if reset:
            self._values.clear()
        for change in changes:
            if change.value is None:
                self._values.pop(change.key, None)
            else:
                self._values[change.key] = change.value
        rows: dict[bytes, NodeRow] = {}
        for key, value in self._values.items():
            node, row = parse_row(key, value)
            if row is not None:
                rows[node] = row
        self.ended = {node: "declared dead" for node, row in rows.items() if row.state == DEAD}
        self.condemned -= self.ended.keys()
        return rows

    def set_state(self, node: bytes, state: str, reason: str) -> None:
        """One compare-and-set on the node's row; nothing when it has no row, or one is in flight."""
        found = next(((key, value) for key, value in self._values.items() if key.startswith(NODES + node)), None)
        if found is None or node in self._changing:
            return
        key, value = found

        def done(call: Call) -> None:
            self._changing.discard(node)
            if call.error or not call.value[0]:
                self.condemned.discard(node)
            self._settled()  # the event with the new row may have come before this answer

        self._changing.add(node)
        if state == DEAD:
            self.condemned.add(node)
        self._client.compare_and_set(key, value, with_state(value, state, reason), done)

    def named(self, nodes: Iterable[bytes]) -> str:
        """Nodes as people know them: by the name and address of their rows."""
        rows = {key[len(NODES):][:ids.INCARNATION_SIZE]: value for key, value in self._values.items()}
        return ", ".join(described(node, rows.get(node)) for node in nodes)


class PlannedLeave:
    """This node leaves by plan: its row becomes "draining", its parts move to others, its row becomes "left".

    ``then`` is called once, when the row says "left", or at once where no other node ever knew this one.
    """

    def __init__(self, rows: NodesTable, me: bytes, reason: str, then: Callable[[], None]) -> None:
        self.over = False
        self._rows = rows
        self._me = me
        self._reason = reason
        self._then = then

    def step(self, row: NodeRow | None, *, has_parts: bool, is_unknown: bool) -> None:
        """The next step, after the row or the configuration has changed.

        ``has_parts``: the node is a voter or a member of a chain of a cluster with others.  ``is_unknown``: the node
        was never admitted and is alone, so no row will come.
        """
        if self.over:
            return
        if row is None:
            if is_unknown:
                self._end()
        elif row.state == ALIVE:
            self._rows.set_state(self._me, DRAINING, self._reason)
        elif row.state == DRAINING:
            if not has_parts:
                self._rows.set_state(self._me, LEFT, self._reason)
        else:
            self._end()

    def _end(self) -> None:
        self.over = True
        self._then()
