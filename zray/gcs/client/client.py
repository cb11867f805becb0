"""The client of the control store: rows by key, wherever their shard is; lists and watches of several shards.  Pure.

Every call returns a :class:`Call` that completes once, and may take a callback.  With all chains in the same process
(``GcsService.client`` of a cluster of one) it is complete when the method returns.

    an operation on one row     goes to the shard of its key (zray.gcs.client.sharding), by its Requests
    a list                      asks every shard that may hold such keys, and merges in the order of keys
    a watch                     see zray.gcs.client.watching

A process that is no node has one peer, its node, which does this for it: such a client sees one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from zray.gcs.client.requests import RETRY_S, Call, Done, GcsError, Requests, Send
from zray.gcs.client.sharding import shard_of, shards_of
from zray.gcs.client.typed import TypedTables
from zray.gcs.client.watching import Watches
from zray.gcs.configuration.config import ChainConfig
from zray.gcs.replica import tables
from zray.gcs.replica.tables import Change
from zray.wire.messages import GcsEvents, GcsRedirect, GcsReply

__all__ = ["RETRY_S", "Call", "GcsClient", "GcsError"]


class GcsClient(TypedTables):
    """One process's access to the control store.

    ``send(peer, message)`` queues a message; ``configure`` says where a chain is; the owner of the client feeds it
    GcsReply, GcsRedirect and GcsEvents through ``on_message`` and the time through ``tick``.
    """

    def __init__(self, incarnation: bytes, send: Send, members: Iterable[bytes] = (), epoch: int = 0,
                 shards: int = 1) -> None:
        self.incarnation = incarnation
        self.counters: Counter[str] = Counter()
        everywhere = tuple(members)
        self.shards = [Requests(shard, send, self.counters, everywhere, epoch) for shard in range(shards)]
        self._watches = Watches(send, self.shards, self.counters)

    # ------------------------------------------------------------ operations

    def put(self, key: bytes, value: bytes, done: Done = None) -> Call:
        """value: whether the key existed."""
        return self._issue([tables.PUT, key, value], key, done, lambda r: r[0])

    def delete(self, key: bytes, done: Done = None) -> Call:
        """value: whether the key existed."""
        return self._issue([tables.DELETE, key], key, done)

    def compare_and_set(self, key: bytes, expected: bytes | None, new: bytes | None, done: Done = None) -> Call:
        """value: (swapped, what the key holds now); None stands for an absent key."""
        return self._issue([tables.COMPARE_AND_SET, key, expected, new], key, done, lambda r: (r[0], r[1]))

    def get(self, key: bytes, done: Done = None) -> Call:
        """value: bytes or None."""
        return self._issue([tables.GET, key], key, done, lambda r: r[0])

    def list_prefix(self, prefix: bytes, done: Done = None, *, values: bool = True) -> Call:
        """value: [(key, value | None), ...] in key order, all pages.

        Each page of a shard is atomic, the whole need not be.
        """
        whole = Call([tables.LIST, prefix])
        items: list[tuple[bytes, bytes | None]] = []
        unfinished = set(shards_of(prefix, len(self.shards)))

        def ask(shard: int, after: bytes) -> None:
            op = [tables.LIST, prefix, after, tables.LIST_ROWS_MAX, values]
            self._to_shard(op, shard, lambda call: page(shard, call))

        def page(shard: int, call: Call) -> None:
            if whole.done:
                return
            if call.error:
                whole.complete(call.error, None)
                return
            rows, more = call.value
            items.extend((key, value) for key, value, _ in rows)
            if more:
                ask(shard, rows[-1][0])
                return
            unfinished.discard(shard)
            if not unfinished:
                items.sort(key=lambda item: item[0])
                whole.complete("", items)

        for shard in sorted(unfinished):
            ask(shard, b"")
        return whole.then(done) if done is not None else whole

    def forget_client(self, incarnation: bytes, shard: int = 0, done: Done = None) -> Call:
        """Drop a shard's memory of a dead process's requests."""
        return self._to_shard([tables.FORGET, incarnation], shard, done)

    def fence(self, clients: Iterable[bytes], done: Callable[[], None]) -> None:
        """``done()`` when no update of these ended processes can change a row any more.

        Those that a chain has accepted before are in the lists that are asked for from then on.
        """
        waiting = [(client, shard) for client in clients for shard in range(len(self.shards))]
        left = len(waiting)

        def forgotten(call: Call) -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for client, shard in waiting:
            self.forget_client(client, shard, forgotten)
        if not waiting:
            done()

    def issue(self, op: list, done: Callable[[Call], None]) -> Call:
        """Any operation of zray.gcs.replica.tables, its result as it is there."""
        if tables.refusal(op):
            return self._to_shard(op, 0, done)  # the shard answers with the reason
        if op[0] == tables.LIST:
            return self._page(op, done)
        shard = shard_of(op[1], len(self.shards)) if op[0] != tables.FORGET else 0
        return self._start(Call(op, None, shard), done)

    def _issue(self, op: list, key: bytes, done: Done, convert: Callable[[Any], Any] | None = None) -> Call:
        return self._to_shard(op, shard_of(key, len(self.shards)), done, convert)

    def _to_shard(self, op: list, shard: int, done: Done, convert: Callable[[Any], Any] | None = None) -> Call:
        error = tables.refusal(op)
        if error:  # refused here, it takes no number: the store counts on every number being answered by the chain
            call = Call(op)
            call.complete(error, None)
            return call.then(done) if done is not None else call
        return self._start(Call(op, convert, shard), done)

    def _start(self, call: Call, done: Done) -> Call:
        if done is not None:
            call.then(done)
        self.shards[call.shard].start(call)
        return call

    def _page(self, op: list, done: Done) -> Call:
        """One page of a list, of all shards that it takes."""
        _, prefix, after, limit, values = op
        shards = shards_of(prefix, len(self.shards))
        if len(shards) == 1:
            return self._to_shard(op, 0, done)
        whole = Call(op)
        pages: dict[int, Any] = {}
        # Keys are spread evenly: each shard holds about its share of the page; the next page brings the rest.
        share = [tables.LIST, prefix, after, min(limit, tables.LIST_ROWS_MAX) // len(shards) + 1, values]

        def arrived(call: Call) -> None:
            if whole.done:
                return
            pages[call.shard] = call.value
            if call.error:
                whole.complete(call.error, None)
            elif len(pages) == len(shards):
                whole.complete("", merged(list(pages.values()), limit))

        for shard in shards:
            self._to_shard(share, shard, arrived)
        return whole.then(done) if done is not None else whole

    # ------------------------------------------------------------ watches

    def watch(self, prefix: bytes, callback: Callable[[bool, list[Change]], None]) -> int:
        """Subscribe to keys with ``prefix`` (also all longer keys); returns a number to unwatch.

        ``callback(reset, changes)`` first gets the present state (``reset`` True), then every later change once, those
        of one key (and of one shard) in order.  Should the client fall further behind than the store remembers, it
        gets the whole state again, marked as a reset.
        """
        return self.subscribe(prefix, lambda position, reset, changes: callback(reset, changes))

    def subscribe(self, prefix: bytes, callback: Callable[[int, bool, list[Change]], None]) -> int:
        """As :meth:`watch`; the callback also gets the position that the changes lead up to, which only grows."""
        return self._watches.subscribe(prefix, shards_of(prefix, len(self.shards)), callback)

    def watch_key(self, key: bytes, callback: Callable[[bool, list[Change]], None]) -> int:
        """As :meth:`watch`, of this one key: a matter of one shard."""
        def changed(position: int, reset: bool, changes: list[Change]) -> None:
            own = [change for change in changes if change.key == key]
            if own or reset:
                callback(reset, own)

        return self._watches.subscribe(key, (shard_of(key, len(self.shards)),), changed)

    def unwatch(self, number: int) -> None:
        self._watches.unwatch(number)

    # ------------------------------------------------------------ events from outside

    def configure(self, epoch: int, members: Iterable[bytes], shard: int = 0) -> None:
        """The chain is now this, head to tail.  Older ones are ignored; open requests go to their new place at once."""
        if self.shards[shard].configure(epoch, members):
            self._watches.moved(shard)

    def configured(self, chain: ChainConfig, shard: int = 0) -> None:
        self.configure(chain.epoch, chain.members, shard)

    def on_message(self, peer: bytes, message: Any) -> None:
        """A GcsReply, GcsRedirect or GcsEvents."""
        if not isinstance(message, (GcsReply, GcsRedirect, GcsEvents)) or not 0 <= message.shard < len(self.shards):
            self.counters["unknown"] += 1
        elif isinstance(message, GcsReply):
            self.shards[message.shard].on_reply(message)
        elif isinstance(message, GcsEvents):
            self._watches.on_events(message)
        elif message.epoch > self.shards[message.shard].epoch and message.members:
            self.configure(message.epoch, message.members, message.shard)
        else:
            self.shards[message.shard].on_redirect(message)

    def tick(self, now: float) -> None:
        """Send requests again that had no answer for a while; call every few tens of milliseconds while ``busy``."""
        for requests in self.shards:
            requests.tick(now)
        self._watches.tick(now)

    @property
    def busy(self) -> bool:
        """Whether requests, or watches after a change of a chain, wait for answers."""
        for requests in self.shards:  # asked once a turn, so written out
            if requests.busy:
                return True
        return self._watches.busy

    def waiting(self) -> list[int]:
        """Shards that left a request, or a watch that asks whether it missed something, without an answer for long."""
        return sorted(self._watches.stuck().union(requests.shard for requests in self.shards if requests.stuck))

    def open_calls(self) -> list[Call]:
        """Requests that were sent and not answered."""
        return [call for requests in self.shards for call in requests.open.values()]

    def again(self, peer: bytes, number: int, shard: int = 0) -> None:
        """Send a request again: ``peer``, which redirected it, did not know this client's configuration yet."""
        requests = self.shards[shard]
        requests.again(number)
        if not number and requests.members and peer == requests.members[-1]:
            self._watches.again(shard)

    def check(self) -> None:
        """Raise AssertionError when the client's invariants are broken."""
        for requests in self.shards:
            requests.check()
        self._watches.check()


def merged(pages: list[list], limit: int) -> list:
    """Results of one LIST from several shards, as one page: up to where the first of them breaks off."""
    ends = [rows[-1][0] for rows, more in pages if more]
    end = min(ends) if ends else None
    found = sorted((row for rows, _ in pages for row in rows if end is None or row[0] <= end), key=lambda row: row[0])
    size = 0
    for i, (key, value, _) in enumerate(found):
        size += len(key) + len(value or b"")
        if i and (i >= min(limit, tables.LIST_ROWS_MAX) or size > tables.LIST_BYTES_MAX):
            return [found[:i], True]
    return [found, bool(ends)]
