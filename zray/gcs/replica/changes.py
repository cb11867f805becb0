"""Publish and subscribe: the recent changes, and the watchers of the tail.

A change is identified by its version, the chain sequence number of its update.  A watch is a position in that order:
everything in ``(previous, version]`` that matches its prefix travels in one GcsEvents, so the receiver can tell a gap,
a duplicate and a reordering from the two numbers, at the new tail after a failure as at the old one.  (In etcd's
robustness work half of the bugs found were in watch streams.)

``ChangeLog`` is part of the replicated state, therefore a new tail continues every stream.  A watcher that fell behind
it gets the whole present state, marked as a reset: a compaction is reported, never silent.
"""

from __future__ import annotations

from collections import Counter, deque

from zray.gcs.replica.tables import Change, Tables
from zray.wire.messages import GcsEvents

CHANGES_MAX = 4096
CHANGES_BYTES_MAX = 8 * 1024 * 1024
# Changes a watcher may have unacknowledged before the tail stops sending; it acknowledges each quarter of it.
WATCH_CREDIT = 1024
# A watcher silent for this long is forgotten (clients ask again every few seconds).
WATCH_IDLE_S = 60.0
# A node watches on behalf of all its processes.
WATCHES_PER_CLIENT_MAX = 65_536


class ChangeLog:
    """The last changes, bounded in number and bytes.  All changes above ``base`` are here."""

    def __init__(self, changes_max: int = CHANGES_MAX, bytes_max: int = CHANGES_BYTES_MAX) -> None:
        self.changes: deque[Change] = deque()
        self.base = 0
        self.changes_max = changes_max
        self.bytes_max = bytes_max
        self.bytes_used = 0

    def append(self, change: Change) -> None:
        self.changes.append(change)
        self.bytes_used += _change_bytes(change)
        while len(self.changes) > self.changes_max or self.bytes_used > self.bytes_max:
            dropped = self.changes.popleft()
            self.bytes_used -= _change_bytes(dropped)
            self.base = dropped.version

    def since(self, version: int, prefix: bytes) -> list[Change] | None:
        """Matching changes above ``version``, oldest first; None when some are no longer known."""
        if version < self.base:
            return None
        found = []
        for change in reversed(self.changes):
            if change.version <= version:
                break
            if change.key.startswith(prefix):
                found.append(change)
        found.reverse()
        return found

    def dump(self) -> list:
        return [self.base, [list(change) for change in self.changes]]

    def load(self, dumped: list) -> None:
        self.base = dumped[0]
        self.changes = deque(Change(*change) for change in dumped[1])
        self.bytes_used = sum(_change_bytes(change) for change in self.changes)

    def check(self) -> None:
        versions = [change.version for change in self.changes]
        assert versions == sorted(set(versions)) and (not versions or versions[0] > self.base)
        assert self.bytes_used == sum(_change_bytes(change) for change in self.changes)
        assert len(self.changes) <= self.changes_max and self.bytes_used <= self.bytes_max


def _change_bytes(change: Change) -> int:
    return len(change.key) + (len(change.value) if change.value is not None else 0) + 100


class ClientWatch:
    """One watch of one client: what it has acknowledged, what was sent to it."""

    __slots__ = ("heard_at", "prefix", "seen", "sent", "unacked")

    def __init__(self, prefix: bytes, seen: int, now: float) -> None:
        self.prefix = prefix
        self.seen = seen
        self.sent = seen
        self.unacked: deque[int] = deque()  # versions of changes sent and not acknowledged
        self.heard_at = now


class Publisher:
    """The watchers of a tail.  Clients can send all of it again, so it is not replicated."""

    def __init__(self, shard: int = 0) -> None:
        self.shard = shard
        self.watchers: dict[tuple[bytes, int], ClientWatch] = {}
        # A change goes to the watchers of each prefix of its key; there are few lengths of prefixes, and a thousand
        # watches of single keys cost a change nothing.
        self._by_prefix: dict[bytes, dict[tuple[bytes, int], ClientWatch]] = {}
        self._lengths: Counter[int] = Counter()
        self._by_client: Counter[bytes] = Counter()
        self.refused = 0

    def watch(self, client: bytes, watch: int, prefix: bytes, seen: int, now: float,
              tables: Tables, log: ChangeLog, version: int) -> list[tuple[bytes, GcsEvents]]:
        """(Re)start a watch after ``seen``; ``version`` is the sequence number of the last update in the tables.

        Always answers, if only that nothing changed: so a client learns that its messages arrive.
        """
        if seen > version:
            return []  # the client has seen more than this replica: it is a stale tail
        key = (client, watch)
        watcher = self.watchers.get(key)
        if watcher is None or watcher.prefix != prefix:
            if watcher is None and self._by_client[client] >= WATCHES_PER_CLIENT_MAX:
                self.refused += 1
                return []
            self._drop(key)
            watcher = self._add(key, ClientWatch(prefix, seen, now))
        watcher.heard_at = now
        watcher.seen = watcher.sent = seen
        watcher.unacked.clear()
        changes = log.since(seen, prefix) if seen >= 0 else None
        watcher.sent = version
        if changes is None:
            return [(client, GcsEvents(watch, seen, version, True, tables.matching(prefix), self.shard))]
        if len(changes) > WATCH_CREDIT:
            changes = changes[:WATCH_CREDIT]
            watcher.sent = changes[-1].version
        watcher.unacked.extend(change.version for change in changes)
        return [(client, GcsEvents(watch, seen, watcher.sent, False, [list(change) for change in changes], self.shard))]

    def acknowledge(self, client: bytes, watch: int, seen: int, now: float) -> bool:
        """Credit for a watch that runs; False when it has to be (re)started by :meth:`watch` instead."""
        watcher = self.watchers.get((client, watch))
        if watcher is None or not watcher.unacked or not watcher.seen < seen <= watcher.sent:
            return False
        watcher.heard_at = now
        watcher.seen = seen
        was_full = len(watcher.unacked) >= WATCH_CREDIT
        while watcher.unacked and watcher.unacked[0] <= seen:
            watcher.unacked.popleft()
        return not was_full

    def publish(self, change: Change) -> list[tuple[bytes, GcsEvents]]:
        """A committed change, to every watcher it matches and that has credit (the others ask when they have)."""
        out = []
        for length in sorted(self._lengths):
            if length > len(change.key):
                break
            for (client, watch), watcher in self._by_prefix.get(change.key[:length], {}).items():
                if len(watcher.unacked) >= WATCH_CREDIT:
                    continue
                out.append((client, GcsEvents(watch, watcher.sent, change.version, False, [list(change)], self.shard)))
                watcher.sent = change.version
                watcher.unacked.append(change.version)
        return out

    def unwatch(self, client: bytes, watch: int) -> None:
        self._drop((client, watch))

    def forget(self, client: bytes) -> None:
        if self._by_client[client]:
            for key in [key for key in self.watchers if key[0] == client]:
                self._drop(key)

    def expire(self, now: float) -> None:
        for key in [key for key, watcher in self.watchers.items() if now - watcher.heard_at > WATCH_IDLE_S]:
            self._drop(key)

    def _add(self, key: tuple[bytes, int], watcher: ClientWatch) -> ClientWatch:
        self.watchers[key] = watcher
        self._by_prefix.setdefault(watcher.prefix, {})[key] = watcher
        self._lengths[len(watcher.prefix)] += 1
        self._by_client[key[0]] += 1
        return watcher

    def _drop(self, key: tuple[bytes, int]) -> None:
        watcher = self.watchers.pop(key, None)
        if watcher is None:
            return
        same = self._by_prefix[watcher.prefix]
        del same[key]
        if not same:
            del self._by_prefix[watcher.prefix]
        self._lengths -= Counter((len(watcher.prefix),))  # in-place subtraction keeps positive counts only
        self._by_client[key[0]] -= 1
        if not self._by_client[key[0]]:
            del self._by_client[key[0]]

    def clear(self) -> list[bytes]:
        """Stop publishing; returns the clients that were watching."""
        clients = list(dict.fromkeys(client for client, _ in self.watchers))
        self.watchers.clear()
        self._by_prefix.clear()
        self._lengths.clear()
        self._by_client.clear()
        return clients

    def check(self) -> None:
        indexed = {key: watcher for same in self._by_prefix.values() for key, watcher in same.items()}
        assert indexed == self.watchers and sum(self._lengths.values()) == len(self.watchers)
        assert sum(self._by_client.values()) == len(self.watchers)
        for watcher in self.watchers.values():
            assert watcher.seen <= watcher.sent and len(watcher.unacked) <= WATCH_CREDIT
            assert all(watcher.seen < version <= watcher.sent for version in watcher.unacked)
