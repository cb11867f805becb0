"""The client's side of watches: one stream of changes, of one shard or of all of them.  Pure.

A watch has a part for every shard that may hold its keys; a part is a position in the order of that shard's chain.

    one part       positions and versions are those of the chain
    several parts  the first callback waits for the state of all shards, and is the whole.  Later callbacks hold the
                   changes of each shard in that shard's order.  So changes of one key stay in order; those of two keys
                   in different shards may not.  A position is the sum of the positions of the parts: it only grows
    a part fell behind the memory of its shard: of one part, its state comes as a reset; of several, all parts start
                   again, so a reset still is the whole state and never that of one shard
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from zray.gcs.client.requests import RETRY_S, STUCK_RETRIES, Requests, Send
from zray.gcs.replica.changes import WATCH_CREDIT
from zray.gcs.replica.tables import Change
from zray.wire.messages import GcsEvents, GcsUnwatch, GcsWatch

# A quiet watch asks whether it missed something this often; the tail forgets a watcher after ten times that.
WATCH_ASK_S = 5.0

Changed = Callable[[int, bool, list[Change]], None]


class _Part:
    """The stream of one shard."""

    __slots__ = ("asked_at", "number", "retries", "seen", "shard", "unacked", "waiting", "watch")

    def __init__(self, number: int, shard: int, watch: _Watch) -> None:
        self.number = number
        self.shard = shard
        self.watch = watch
        self.seen = -1
        self.unacked = 0  # changes received since the last acknowledgement
        self.asked_at = -math.inf
        self.waiting = False  # asked, and no answer has come since
        self.retries = 0  # since the last message


class _Watch:
    """A subscription.  ``callback(position, reset, changes)``: with ``reset``, the changes are the whole state."""

    __slots__ = ("callback", "parts", "prefix", "shards", "state")

    def __init__(self, prefix: bytes, shards: tuple[int, ...], callback: Changed) -> None:
        self.prefix = prefix
        self.shards = shards
        self.callback = callback
        self.parts: list[_Part] = []
        self.state: dict[bytes, Change] | None = None  # of the shards that have answered, until all have


class Watches:
    """All watches of one client.  ``shards``: where the chains are."""

    def __init__(self, send: Send, shards: list[Requests], counters: Counter[str]) -> None:
        self._send = send
        self._shards = shards
        self._counters = counters
        self._now = 0.0
        self._next = 1
        self._watches: dict[int, _Watch] = {}
        self._parts: dict[int, _Part] = {}
        self._asking: set[int] = set()  # parts that wait for an answer

    def subscribe(self, prefix: bytes, shards: Iterable[int], callback: Changed) -> int:
        """Returns the number for :meth:`unwatch`."""
        watch = _Watch(prefix, tuple(shards), callback)
        number = self._next
        self._watches[number] = watch
        self._begin(watch)
        return number

    def unwatch(self, number: int) -> None:
        watch = self._watches.pop(number, None)
        if watch is not None:
            self._end(watch)

    @property
    def busy(self) -> bool:
        return bool(self._asking)

    def stuck(self) -> set[int]:
        """Shards that left a part without an answer though it asked again and again."""
        return {part.shard for part in self._parts.values() if part.retries >= STUCK_RETRIES}

    def moved(self, shard: int) -> None:
        """The chain of that shard has changed: its tail, perhaps another, is to go on."""
        for part in list(self._parts.values()):
            if part.shard == shard:
                self._ask(part)

    def again(self, shard: int) -> None:
        """The tail of that shard did not know yet that it is the tail."""
        for part in list(self._parts.values()):
            if part.shard == shard and part.waiting:
                self._ask(part)

    def tick(self, now: float) -> None:
        self._now = max(self._now, now)
        for part in list(self._parts.values()):
            if now - part.asked_at >= (RETRY_S if part.waiting else WATCH_ASK_S):
                self._ask(part, retry=part.waiting)

    def on_events(self, message: GcsEvents) -> None:
        part = self._parts.get(message.watch)
        if part is None or part.shard != message.shard:
            self._counters["late"] += 1
            return
        # A reset answers one question; if this part has moved on since, the changes after its position are better.
        if message.previous != part.seen if message.reset else message.previous > part.seen:
            self._counters["watch_gap"] += 1
            if not part.waiting:
                self._ask(part)
            return
        part.waiting = False
        part.retries = 0
        self._asking.discard(part.number)
        if message.version <= part.seen:
            return
        fresh = [Change(*change) for change in message.changes if message.reset or change[0] > part.seen]
        part.seen = message.version
        part.unacked += len(fresh)
        if part.unacked >= WATCH_CREDIT // 4:
            self._ask(part)
        if len(part.watch.parts) == 1:
            if message.reset or fresh:
                part.watch.callback(message.version, message.reset, fresh)
        else:
            self._merge(part, message.reset, fresh)

    # ------------------------------------------------------------ several parts

    def _merge(self, part: _Part, reset: bool, fresh: list[Change]) -> None:
        watch = part.watch
        position = sum(one.seen for one in watch.parts)
        if watch.state is not None:
            for change in fresh:
                if change.value is not None:
                    watch.state[change.key] = change
                else:
                    watch.state.pop(change.key, None)
            if all(one.seen >= 0 for one in watch.parts):
                state, watch.state = watch.state, None
                watch.callback(position, True, [state[key] for key in sorted(state)])
        elif reset:
            self._counters["watch_restarts"] += 1
            self._end(watch)
            self._begin(watch)
        elif fresh:
            others = position - part.seen
            watch.callback(position, False, [change._replace(version=change.version + others) for change in fresh])

    def _begin(self, watch: _Watch) -> None:
        watch.parts = [_Part(self._next + i, shard, watch) for i, shard in enumerate(watch.shards)]
        self._next += len(watch.parts)
        self._parts.update((part.number, part) for part in watch.parts)
        watch.state = {} if len(watch.parts) > 1 else None
        for part in watch.parts:
            if part.number in self._parts:  # else a callback has ended the watch
                self._ask(part)

    def _end(self, watch: _Watch) -> None:
        for part in watch.parts:
            del self._parts[part.number]
            self._asking.discard(part.number)
            members = self._shards[part.shard].members
            if members:
                self._send(members[-1], GcsUnwatch(part.number, part.shard))

    def _ask(self, part: _Part, retry: bool = False) -> None:
        part.asked_at = self._now
        part.waiting = True
        self._asking.add(part.number)
        part.unacked = 0
        members = self._shards[part.shard].members
        if not members:
            return
        peer = members[-1]
        if retry:
            part.retries += 1
            self._counters["watch_retries"] += 1
            peer = members[self._counters["watch_retries"] % len(members)]
        self._send(peer, GcsWatch(part.number, part.watch.prefix, part.seen, part.shard))

    def check(self) -> None:
        """Raise AssertionError when the invariants are broken."""
        parts: list[Any] = [part for watch in self._watches.values() for part in watch.parts]
        assert {part.number: part for part in parts} == self._parts and len(parts) == len(self._parts)
        assert all(part.seen >= -1 for part in parts)
        assert self._asking == {part.number for part in parts if part.waiting}
        for watch in self._watches.values():
            assert (watch.state is not None) == (len(watch.parts) > 1 and any(p.seen < 0 for p in watch.parts))
