"""Hand the objects that only a leaving node has to nodes that stay: the leaver's half.  Pure.

    a primary (or the kept copy of a lost one)   that no heir keeps     is asked of one: KeepCopies
    CopyMade of that heir                        it keeps the object    its address stays; readers find the heir
    CopyGone, or the heir is silent, is gone, leaves too                another one is asked, while there is one
    freed by its owner                                                  no node needs it

An heir brings the objects as if a process there had asked for them, and keeps them as if they were its own: spilled
under pressure, never evicted.  Small objects go first, so that most survive if time runs out.  The store recalls the
extents that processes still hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.store.node.records import StoredObject
from zray.store.node.table import StoreTable
from zray.store.transfer.copies import Copies
from zray.store.transfer.directory import Directory
from zray.store.transfer.exchange import ASKED_AHEAD, HandoverProgress, ObjectKey, SendToNode
from zray.wire.messages import KeepCopies

# How often to look for new objects to give (processes end, and give back their extents); with many objects less often,
# as each costs some microseconds.
HANDOVER_LOOK_S = 0.02
LOOK_OBJECTS = 1000
# An heir that is silent for so long is passed over: long before a dead one is known to be dead.
SILENT_S = 1.0


class HandOver:
    """See the module's docstring.  Nothing happens before the first ``step``."""

    def __init__(self, me: bytes, copies: Copies, directory: Directory, table: StoreTable, out: list[Any],
                 copies_wanted: Callable[[ObjectKey], int]):
        self.me = me
        self.copies = copies
        self.directory = directory
        self.table = table
        self.out = out
        self.copies_wanted = copies_wanted  # of a durable object; 0 of any other
        self.begun = False
        self.mine: dict[ObjectKey, StoredObject] = {}  # at the last look
        self.kept: dict[ObjectKey, bytes] = {}  # object -> its heir
        self.asked: dict[ObjectKey, bytes] = {}
        self.refused: dict[ObjectKey, set[bytes]] = {}
        self.given: dict[bytes, int] = {}  # bytes asked of each heir
        self._bytes = self._kept_bytes = 0  # sums over mine, kept
        self._queue: list[ObjectKey] = []  # to be asked of an heir, the next one last
        # heir -> when its last message came, or since when it has nothing to answer
        self._heard: dict[bytes, float] = {}
        self._heirs: tuple[bytes, ...] = ()
        self._look_at = 0.0
        self._looked = -1  # table.named then

    def step(self, heirs: Iterable[bytes], needed: Callable[[bytes], bool], now: float) -> HandoverProgress:
        """The next step.  ``heirs`` are the nodes that stay; ``needed``: whether any process could want an object."""
        self.begun = True
        present = tuple(sorted(heirs))
        idle = not self.asked and not self._queue
        if present != self._heirs or now >= self._look_at or idle and self._looked != self.table.named:
            self._heirs = present
            self._look(needed, now)
        self._ask(now)
        done = (not self.asked and not self._queue and not self.table.room.grants and self._looked == self.table.named
                and self.directory.written)
        return HandoverProgress(done, len(self.kept), self._kept_bytes,
                      len(self.mine) - len(self.kept), self._bytes - self._kept_bytes)

    def _look(self, needed: Callable[[bytes], bool], now: float) -> None:
        self.table.recall_all(now)
        self._looked = self.table.named
        self.mine = {self._key(stored): stored for stored in self.table.names.values()
                     if not stored.freed and not stored.secondary and needed(stored.oid)}
        for held in (self.asked, self.kept):
            for key in [key for key in held if key not in self.mine]:
                del held[key]
        for key, heir in list(self.asked.items()):
            if heir not in self._heirs:
                del self.asked[key]
            elif now >= self._heard[heir] + SILENT_S and self._heir(key, but=heir) is not None:
                self.refused.setdefault(key, set()).add(self.asked.pop(key))
        self._bytes = sum(stored.nbytes for stored in self.mine.values())
        self._kept_bytes = sum(self.mine[key].nbytes for key in self.kept)
        self._queue = [key for key in self.mine if key not in self.kept and key not in self.asked]
        self._queue.sort(key=lambda key: -self.mine[key].nbytes)
        self._look_at = now + HANDOVER_LOOK_S * (1 + len(self.mine) // LOOK_OBJECTS)

    def _ask(self, now: float) -> None:
        messages: dict[bytes, list[list[Any]]] = {}
        owing = set(self.asked.values()) if self._queue else set()
        while self._queue and len(self.asked) < ASKED_AHEAD:
            key = self._queue.pop()
            stored = self.mine[key]
            heir = self._heir(key)
            if stored.freed or heir is None:
                continue
            self.asked[key] = heir
            self.given[heir] = self.given.get(heir, 0) + stored.nbytes
            if heir not in owing:  # it had nothing to answer until now
                owing.add(heir)
                self._heard[heir] = now
            wanted = self.copies_wanted(key)
            messages.setdefault(heir, []).append(
                [*key, max(stored.offset, 0), stored.nbytes, *([wanted] if wanted else [])])
        for heir, objects in messages.items():
            self.out.append(SendToNode(heir, KeepCopies(objects)))

    def _key(self, stored: StoredObject) -> ObjectKey:
        if stored.foreign:
            return self.copies.keys[stored.generation]
        return ObjectKey(stored.oid, self.me, stored.generation)

    def _heir(self, key: ObjectKey, but: bytes = b"") -> bytes | None:
        """The node that has it already, else the heir with the fewest bytes."""
        refused = self.refused.get(key, ())
        possible = [heir for heir in self._heirs if heir not in refused and heir != but]
        has = self.directory.complete.get(key, {})
        return min(possible, key=lambda heir: (heir not in has, self.given.get(heir, 0)), default=None)

    # ------------------------------------------------------------ what nodes say

    def heard(self, node: bytes, now: float) -> None:
        if node in self._heard:
            self._heard[node] = now

    def copy_made(self, node: bytes, key: ObjectKey) -> None:
        """The heir has the object.  An heir that was passed over for its silence may report so late."""
        if key in self.asked and (self.asked[key] == node or node in self.refused.get(key, ())):
            del self.asked[key]
            self.kept[key] = node
            self._kept_bytes += self.mine[key].nbytes

    def copy_gone(self, node: bytes, key: ObjectKey) -> None:
        if self.asked.get(key) == node or self.kept.get(key) == node:
            self.refused.setdefault(key, set()).add(node)
            self._again(key)

    def node_ended(self, node: bytes) -> None:
        for key in [key for held in (self.asked, self.kept) for key, heir in held.items() if heir == node]:
            self._again(key)

    def _again(self, key: ObjectKey) -> None:
        self.asked.pop(key, None)
        if self.kept.pop(key, None) is not None:
            self._kept_bytes -= self.mine[key].nbytes
        self._queue.append(key)

    def check(self) -> None:
        several = [*self.asked, *self.kept, *self._queue]
        assert len(several) == len(set(several)) and set(several) <= self.mine.keys()
        assert len(self.asked) <= ASKED_AHEAD
        assert self._kept_bytes == sum(self.mine[key].nbytes for key in self.kept)
        assert all(heir in self._heard for heir in self.asked.values())
        assert self.begun or not self.mine
