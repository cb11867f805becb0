"""Joining and leaving the cluster, as a sequence of requests to the control store.  Pure.

    admit    its tag was never seen; its name is free, or held by a node that has ended; the next ordinal; then its row
    leave    its row becomes "draining"; the decider takes it out of chains and voters; its row becomes "left"

Each step is one compare-and-set, so two nodes may admit at the same time.  When two admit the same incarnation or the
same name, one of them is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from zray.base.ids import INCARNATION_SIZE, NODE_SIZE, TAG_SIZE
from zray.gcs.client.client import Call, GcsClient
from zray.gcs.configuration.control import ALIVE, DEAD, LEFT, NodeRow
from zray.gcs.replica.tables import NODES, SYSTEM, pack_record, unpack_record

_ORDINAL = SYSTEM + b"ordinal"
_TAG = SYSTEM + b"tag/"
_NAME = SYSTEM + b"name/"
NAME_CHARS_MAX = 256


def parse_row(key: bytes, value: bytes | None) -> tuple[bytes, NodeRow | None]:
    """A row of the nodes table: (incarnation, its contents); None when there is none or it is malformed."""
    node = key[len(NODES):][:INCARNATION_SIZE]
    if value is None:
        return node, None
    try:
        record = unpack_record(value)
        state, ordinal = record.get("state", ALIVE), record.get("ordinal", 0)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        return node, None
    if type(state) is not str or type(ordinal) is not int or len(node) != INCARNATION_SIZE:
        return node, None
    return node, NodeRow(state, ordinal)


def described(node: bytes, value: bytes | None) -> str:
    """A node in words, by its row if it is known: the begin of its id, its name, its address."""
    try:
        record = unpack_record(value) if value is not None else {}
        # the rest of the endpoint is its key
        address = str(record.get("endpoint", "")).partition("://")[2].partition("/")[0]
        facts = [fact for fact in (str(record.get("name", "")), address) if fact]
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        facts = []
    return f"{node.hex()[:8]} ({', '.join(facts)})" if facts else node.hex()[:8]


def with_state(value: bytes, state: str, reason: str) -> bytes:
    """A row after its node's state has changed."""
    return pack_record({**unpack_record(value), "state": state, "reason": reason})


class Admission:
    """Admits one node; ``then(refused, ordinal)`` is called once."""

    def __init__(self, client: GcsClient, row: dict[str, Any], then: Callable[[str, int], None],
                 first_ordinal: int = 1) -> None:
        self.client = client
        self.row = row
        self.then = then
        self._first_ordinal = first_ordinal
        node, name = row.get("node_id"), row.get("name", "")
        if type(node) is not bytes or len(node) != NODE_SIZE or any(node[TAG_SIZE:INCARNATION_SIZE]):
            then("a node id has 28 bytes, of which bytes 5 to 8 are zero", 0)
            return
        if type(name) is not str or len(name) > NAME_CHARS_MAX:
            then(f"the name of a node is text of at most {NAME_CHARS_MAX} characters", 0)
            return
        self.node: bytes = node
        self.name: str = name
        client.compare_and_set(_TAG + node[:TAG_SIZE], None, node, self._tagged)

    def _tagged(self, call: Call) -> None:
        if self._failed(call):
            return
        swapped, holder = call.value
        if not swapped and holder == self.node:  # the node may have asked another one, which failed half-way
            self.client.get(NODES + self.node, self._known)
        elif not swapped:
            self._refuse_known()
        else:
            self._name()

    def _known(self, call: Call) -> None:
        if self._failed(call):
            return
        if call.value is not None:
            self._refuse_known()
        else:
            self._name()

    def _refuse_known(self) -> None:
        self.then("this incarnation is known already: a node that was declared dead, or is a copy of another, "
                      "must start anew", 0)

    def _name(self) -> None:
        if self.name:
            self.client.compare_and_set(_NAME + self.name.encode(), None, self.node, self._named)
        else:
            self._number()

    def _named(self, call: Call) -> None:
        if self._failed(call):
            return
        swapped, holder = call.value
        if swapped or holder == self.node:
            self._number()
        elif holder is None:  # given up in between
            self.client.compare_and_set(_NAME + self.name.encode(), None, self.node, self._named)
        else:
            self.client.get(NODES + holder, lambda found: self._holder_is(holder, found))

    def _holder_is(self, holder: bytes, found: Call) -> None:
        if self._failed(found):
            return
        row = parse_row(NODES + holder, found.value)[1]
        if row is None or row.state not in (DEAD, LEFT):
            self.then(f"another node is called {self.name!r}", 0)
            return
        self.client.compare_and_set(_NAME + self.name.encode(), holder, self.node, self._named)

    def _number(self) -> None:
        self.client.get(_ORDINAL, self._count)

    def _count(self, call: Call) -> None:
        if self._failed(call):
            return
        known: bytes | None = call.value
        ordinal = int.from_bytes(known, "big") + 1 if known is not None else self._first_ordinal

        def taken(swap: Call) -> None:
            if self._failed(swap):
                return
            if not swap.value[0]:
                self._number()  # another node was faster
                return
            row = {**self.row, "state": ALIVE, "ordinal": ordinal}
            self.client.put(NODES + self.node, pack_record(row), lambda put: self._written(put, ordinal))

        self.client.compare_and_set(_ORDINAL, known, ordinal.to_bytes(8, "big"), taken)

    def _written(self, call: Call, ordinal: int) -> None:
        if not self._failed(call):
            self.then("", ordinal)

    def _failed(self, call: Call) -> bool:
        if call.error:
            self.then(f"the control store refused: {call.error}", 0)
        return bool(call.error)
