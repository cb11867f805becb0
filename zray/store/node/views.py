"""Contents of the store's table, for people: reports, errors, lists."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from zray.base.ids import short
from zray.store.header import FREE, STATE_NAMES, BrokenChain

if TYPE_CHECKING:
    from zray.store.node.table import StoreTable

HOLDERS_SHOWN = 5
OBJECTS_SHOWN = 3


def usage(table: StoreTable) -> dict[str, Any]:
    """The holders of memory, in bytes."""
    return {
        "capacity": table.room.capacity, "reserved": table.room.arena.reserved, "free": table.room.arena.free_bytes,
        "largest_free": table.room.arena.largest_free, "granted": table.room.granted_bytes,
        "stored": table.stored_bytes, "spilled": table.disk_bytes,
        "overflow": table.room.overflow.used_bytes, "lost": sum(size for _, size in table.lost),
        "waiting": len(table.room.waiting), "growth_error": table.room.growth_error,
        "spill_error": table.spill_error,
        "clients": {client.hex(): sum(table.room.grants[offset].size for offset in state.grants)
                    for client, state in table.room.clients.items() if state.grants},
        **{f"count_{name}": count for name, count in table.counts.items()},
    }


def describe(table: StoreTable) -> str:
    """The holders of memory, in words, for an error."""
    found = usage(table)
    parts = [f"capacity {found['capacity']:,}", f"extents of processes {found['granted']:,}",
             f"objects of the store {found['stored']:,}", f"free {found['free']:,}",
             f"largest free range {found['largest_free']:,}"]
    if found["overflow"]:
        parts.append(f"in the overflow file {found['overflow']:,}")
    holders = _holders(table)
    if holders:
        parts.append("held by " + ", ".join(holders))
    largest = _largest(table)
    if largest:
        parts.append("largest objects " + ", ".join(largest))
    for name in ("growth_error", "spill_error"):
        if found[name]:
            parts.append(found[name])
    return "; ".join(parts)


def _holders(table: StoreTable) -> list[str]:
    """Processes by the bytes that they keep in memory: objects in their extents, and objects that they have pinned."""
    made = {client: sum(table.room.grants[offset].size for offset in state.grants)
            for client, state in table.room.clients.items()}
    reads: dict[bytes, int] = {}
    readers = table.readers()
    for stored in table.names.values():
        for client in readers.get(stored.offset | 1, ()):
            reads[client] = reads.get(client, 0) + stored.nbytes
    totals = {client: made.get(client, 0) + reads.get(client, 0) for client in {*made, *reads}}
    words = []
    for client in sorted(totals, key=lambda client: -totals[client])[:HOLDERS_SHOWN]:
        parts = [f"{made[client]:,} in extents of its own"] if made.get(client) else []
        parts += [f"{reads[client]:,} that it reads"] if reads.get(client) else []
        if parts:
            words.append(f"{table.name_of(client)}: {' and '.join(parts)}")
    return words


def _largest(table: StoreTable) -> list[str]:
    readers = table.readers()
    rows = sorted((stored for stored in table.names.values() if stored.offset >= 0), key=lambda each: -each.nbytes)
    words = []
    for stored in rows[:OBJECTS_SHOWN]:
        pins = readers.get(stored.offset | 1, ())
        why = f", read by {', '.join(map(table.name_of, pins[:HOLDERS_SHOWN]))}" if pins else ""
        words.append(f"ObjectRef({short(stored.oid)}) of {stored.nbytes:,}{why}")
    return words


def objects(table: StoreTable, most: int | None = None) -> list[dict[str, Any]]:
    """Every object of the node, with its holder: the client whose extent it lies in, or the store.

    ``most``: stop when there are so many.
    """
    rows = [{"oid": stored.oid, "nbytes": stored.nbytes, "state": stored.phase.value, "holder": b"",
             "copy": stored.foreign} for stored in islice(table.names.values(), most)]
    for grant in table.room.grants.values():
        if most is not None and len(rows) >= most:
            break
        try:
            rows += [{"oid": block.oid, "nbytes": block.nbytes, "state": STATE_NAMES[block.state],
                      "holder": grant.client, "copy": False}
                     for block in table.headers.walk(grant.offset, grant.size) if block.state != FREE]
        except BrokenChain:
            continue  # its client is writing; the next look will see it whole
    return rows
