"""What only a leaving node has, handed to nodes that stay: the leaver's half.  Pure.

    a primary (or the kept copy of a lost one)   that no heir keeps     is asked of one: KeepCopies
    CopyMade of that heir                        it keeps the object    its address stays; readers find the heir
    CopyGone, or the heir is gone, leaves too    it does not            another one is asked, while there is one
    freed by its owner                                                  nobody needs it

An heir brings the objects as if a process there had asked for them, and keeps them as if they were its own: spilled
under pressure, never evicted.  Small objects go first, so that most survive should time run out; of extents that
processes still hold, the store asks the return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.messages import KeepCopies
from zray.store.copies import Copies
from zray.store.directory import Directory
from zray.store.exchange import ASKED_AHEAD, Handed, Key, Say
from zray.store.records import Stored
from zray.store.table import StoreTable

LOOK_S = 0.02  # how often to look for what has become ours to give: processes end, and give back their extents


class HandOver:
    """See the module's docstring.  Nothing happens before the first ``step``."""

    def __init__(self, me: bytes, copies: Copies, directory: Directory, table: StoreTable, out: list[Any]):
        self.me = me
        self.copies = copies
        self.directory = directory
        self.table = table
        self.out = out
        self.begun = False
        self.kept: dict[Key, bytes] = {}  # object -> its heir
        self.asked: dict[Key, bytes] = {}
        self.refused: dict[Key, set[bytes]] = {}
        self.given: dict[bytes, int] = {}  # bytes asked of each heir
        self._heirs: tuple[bytes, ...] = ()
        self._look_at = 0.0
        self._now = Handed(False)

    def step(self, heirs: Iterable[bytes], needed: Callable[[bytes], bool], now: float) -> Handed:
        """Go on.  ``heirs`` are the nodes that stay, ``needed`` says which objects anybody could want."""
        present = tuple(sorted(heirs))
        if self.begun and present == self._heirs and now < self._look_at:
            return self._now
        self.begun = True
        self._heirs, self._look_at = present, now + LOOK_S
        for key in [key for key, heir in self.asked.items() if heir not in present]:
            del self.asked[key]
        self.table.recall_all(now)
        mine = {self._key(stored): stored for stored in self.table.names.values()
                if not stored.freed and not stored.secondary and needed(stored.oid)}
        for gone in [key for key in self.kept if key not in mine]:
            del self.kept[gone]
        wanted = sorted((stored.nbytes, key) for key, stored in mine.items()
                        if key not in self.kept and key not in self.asked)
        messages: dict[bytes, list[list[Any]]] = {}
        for nbytes, key in wanted:
            if len(self.asked) >= ASKED_AHEAD:
                break
            heir = self._heir(key)
            if heir is not None:
                self.asked[key] = heir
                self.given[heir] = self.given.get(heir, 0) + nbytes
                messages.setdefault(heir, []).append([*key, max(mine[key].offset, 0), nbytes])
        for heir, objects in messages.items():
            self.out.append(Say(heir, KeepCopies(objects)))
        left = [stored.nbytes for key, stored in mine.items() if key not in self.kept]
        kept = [stored.nbytes for key, stored in mine.items() if key in self.kept]
        more = self.asked or any(self._heir(key) is not None for _, key in wanted)
        done = not more and not self.table.grants and self.directory.written
        self._now = Handed(done, len(kept), sum(kept), len(left), sum(left))
        return self._now

    def _key(self, stored: Stored) -> Key:
        if stored.foreign:
            return self.copies.keys[stored.generation]
        return Key(stored.oid, self.me, stored.generation)

    def _heir(self, key: Key) -> bytes | None:
        """Who has it already, else who was given least."""
        refused = self.refused.get(key, ())
        possible = [heir for heir in self._heirs if heir not in refused]
        has = self.directory.complete.get(key, {})
        return min(possible, key=lambda heir: (heir not in has, self.given.get(heir, 0)), default=None)

    # ------------------------------------------------------------ answers

    def made(self, node: bytes, key: Key) -> None:
        if self.asked.get(key) == node:
            del self.asked[key]
            self.kept[key] = node
            self._look_at = 0.0

    def unmade(self, node: bytes, key: Key) -> None:
        if self.asked.get(key) == node or self.kept.get(key) == node:
            self.asked.pop(key, None)
            self.kept.pop(key, None)
            self.refused.setdefault(key, set()).add(node)
            self._look_at = 0.0

    def node_gone(self, node: bytes) -> None:
        for held in (self.asked, self.kept):
            for key in [key for key, heir in held.items() if heir == node]:
                del held[key]

    def check(self) -> None:
        assert not self.asked.keys() & self.kept.keys()
        assert len(self.asked) <= ASKED_AHEAD
        assert self.begun or not (self.asked or self.kept)

