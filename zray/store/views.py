"""What the store's table holds, for people: reports, errors, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.store.header import FREE, STATE_NAMES, BrokenChain

if TYPE_CHECKING:
    from zray.store.table import StoreTable

HOLDERS_SHOWN = 5


def usage(table: StoreTable) -> dict[str, Any]:
    """Who holds what, in bytes."""
    return {
        "capacity": table.capacity, "reserved": table.arena.reserved, "free": table.arena.free_bytes,
        "largest_free": table.arena.largest_free, "granted": table.granted_bytes, "stored": table.stored_bytes,
        "spilled": table.disk_bytes, "lost": sum(size for _, size in table.lost), "waiting": len(table.waiting),
        "growth_error": table.growth_error, "spill_error": table.spill_error,
        "clients": {client.hex(): sum(table.grants[offset].size for offset in state.grants)
                    for client, state in table.clients.items() if state.grants},
        **{f"count_{name}": count for name, count in table.counts.items()},
    }


def fullness(table: StoreTable) -> str:
    """In a few words, for who waits for room."""
    used = table.arena.reserved - table.arena.free_bytes
    return f"{used:,} of {table.capacity:,} bytes are in use"


def describe(table: StoreTable) -> str:
    """Who holds what, in words, for an error."""
    found = usage(table)
    holders = sorted(found["clients"].items(), key=lambda pair: -pair[1])[:HOLDERS_SHOWN]
    parts = [f"capacity {found['capacity']:,}", f"extents of processes {found['granted']:,}",
             f"objects of the store {found['stored']:,}", f"free {found['free']:,}",
             f"largest free range {found['largest_free']:,}"]
    if holders:
        parts.append("largest holders " + ", ".join(f"{name}: {size:,}" for name, size in holders))
    for name in ("growth_error", "spill_error"):
        if found[name]:
            parts.append(found[name])
    return "; ".join(parts)


def objects(table: StoreTable) -> list[dict[str, Any]]:
    """Every object of the node, with its holder: the client whose extent it lies in, or the store."""
    rows = [{"oid": stored.oid, "nbytes": stored.nbytes, "state": stored.phase.value, "holder": b"",
             "copy": stored.foreign} for stored in table.names.values()]
    for grant in table.grants.values():
        try:
            rows += [{"oid": block.oid, "nbytes": block.nbytes, "state": STATE_NAMES[block.state],
                      "holder": grant.client, "copy": False}
                     for block in table.headers.walk(grant.offset, grant.size) if block.state != FREE]
        except BrokenChain:
            continue  # its client is writing; the next look will see it whole
    return rows
