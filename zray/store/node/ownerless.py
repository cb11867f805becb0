"""Objects of a store whose owners have ended: zray.node.jobs.unheld asks for them, and frees those that no process
holds."""

from __future__ import annotations

from collections.abc import Callable

from zray.base.named_tuples import NamedTuple
from zray.store.header import OWNER_UNKNOWN, SEALED, BrokenChain
from zray.store.node.table import StoreTable
from zray.wire.messages import StoreFree


class OwnerlessObject(NamedTuple):
    oid: bytes
    offset: int
    generation: int
    owner: bytes  # the first one; OWNER_UNKNOWN for a copy


def ownerless(table: StoreTable, has_ended: Callable[[bytes], bool]) -> list[OwnerlessObject]:
    """The primary copies whose first owner has ended: another process may have adopted them since.

    A copy that has outlived its primary's node is one of them, because its owner is not known here.  Clients write to
    their extents meanwhile: the next look finds the objects that this one misses for that reason.
    """
    ended: dict[bytes, bool] = {OWNER_UNKNOWN: False}

    def is_without(owner: bytes) -> bool:
        known = ended.get(owner)
        if known is None:
            known = ended[owner] = has_ended(owner)
        return known

    found = [OwnerlessObject(stored.oid, stored.offset, stored.generation, stored.owner)
             for stored in table.names.values()
             if not (stored.freed or stored.secondary) and (stored.foreign or is_without(stored.owner))]
    for grant in table.room.grants.values():
        try:
            found += [OwnerlessObject(block.oid, block.offset, block.generation, block.owner)
                      for block in table.headers.walk(grant.offset, grant.size)
                      if block.state == SEALED and is_without(block.owner)]
        except BrokenChain:
            continue
    return found


def free(table: StoreTable, objects: list[OwnerlessObject], now: float) -> None:
    """Free these objects: no process holds them any more."""
    table.on_free(b"", StoreFree([[one.oid, one.offset, one.generation] for one in objects]), now)
