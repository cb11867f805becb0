"""The replicated state of a replica: tables, answered requests and recent changes, after some number of updates.

Two replicas that applied the same updates are equal byte for byte (``snapshot()``), because nothing here depends on
anything else.
"""

from __future__ import annotations

from typing import Any

import msgpack

from zray.base.named_tuples import NamedTuple
from zray.gcs.replica import dedupe, tables
from zray.gcs.replica.changes import ChangeLog
from zray.gcs.replica.dedupe import ClientTable
from zray.gcs.replica.tables import Change, Tables

SNAPSHOT_FORMAT = 1


class Update(NamedTuple):
    """An update as it travels down the chain."""

    client: bytes
    number: int
    acked: int
    op: list


class CorruptSnapshot(ValueError):
    """Bytes that are no snapshot of this format."""


class ReplicatedState:
    """``apply`` updates in sequence; everything else reads."""

    def __init__(self) -> None:
        self.sequence = 0
        self.tables = Tables()
        self.clients = ClientTable()
        self.changes = ChangeLog()

    def classify(self, client: bytes, number: int, acked: int) -> str:
        return self.clients.classify(client, number, acked)

    def apply(self, update: Update) -> Change | None:
        """Apply the next update; its answer is then in ``clients``."""
        self.sequence += 1
        change = None
        if update.op[0] == tables.FORGET:
            error, result = "", self.clients.forget(update.op[1])
        else:
            error, result, change = self.tables.apply(update.op, self.sequence)
        self.clients.record(update.client, update.number, update.acked, (self.sequence, error, result))
        if change is not None:
            self.changes.append(change)
        return change

    def answer(self, client: bytes, number: int) -> tuple[int, str, Any] | None:
        """(sequence, error, result) of an applied request, None when the client no longer wants it."""
        if self.clients.classify(client, number, 0) != dedupe.KNOWN:
            return None
        return self.clients.answer(client, number)

    def snapshot(self) -> bytes:
        return msgpack.packb([SNAPSHOT_FORMAT, self.sequence, self.tables.dump(), self.clients.dump(),
                              self.changes.dump()], use_bin_type=True)

    def restore(self, raw: bytes) -> None:
        """Become the state that :meth:`snapshot` wrote; CorruptSnapshot, and no change, when ``raw`` is none."""
        fresh = ReplicatedState()
        try:
            form, fresh.sequence, rows, clients, changes = msgpack.unpackb(
                raw, raw=False, strict_map_key=False, max_ext_len=0)
            if form != SNAPSHOT_FORMAT:
                raise CorruptSnapshot(f"snapshot format {form!r}, this version reads {SNAPSHOT_FORMAT}")
            fresh.tables.load(rows)
            fresh.clients.load(clients)
            fresh.changes.load(changes)
        except (ValueError, TypeError, AttributeError, KeyError, msgpack.UnpackException) as error:
            raise CorruptSnapshot(f"not a snapshot: {error}") from None
        self.sequence, self.tables = fresh.sequence, fresh.tables
        self.clients, self.changes = fresh.clients, fresh.changes

    def check(self) -> None:
        self.tables.check()
        self.clients.check()
        self.changes.check()
        assert all(row.version <= self.sequence for row in self.tables.rows.values())
        assert not self.changes.changes or self.changes.changes[-1].version <= self.sequence
