"""The client of the control store: numbered requests, retries, watches.  Pure.

Every call returns a :class:`Call` that completes once, and may take a callback.  With the chain in the same process
(``GcsService.client`` with one member) it is complete when the method returns.

Updates are numbered 1, 2, ...; a retry carries the same number, so an update is applied at most once.  Reads are
numbered -1, -2, ... and are simply asked again.  When answers stay out, the client asks the other members too: whoever
is not the head or tail of its epoch answers with a redirect.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from zray.gcs import tables
from zray.gcs.changes import WATCH_CREDIT
from zray.gcs.config import ChainConfig
from zray.gcs.dedupe import WINDOW
from zray.gcs.tables import (
    ACTORS, FUNCTIONS, GROUP_NAMES, GROUPS, JOBS, KV, LOCATIONS, NAMES, NODES, Change, scoped, unscoped,
)
from zray.messages import GcsEvents, GcsRedirect, GcsReply, GcsRequest, GcsUnwatch, GcsWatch

RETRY_S = 0.1
# A quiet watch asks whether it missed something this often; the tail forgets a watcher after ten times that.
WATCH_ASK_S = 5.0

Send = Callable[[bytes, Any], object]


class GcsError(Exception):
    """The control store refused a request; the first word of the message is a code of zray.gcs.tables."""

    @property
    def code(self) -> str:
        return str(self).partition(":")[0]


class Call:
    """A request under way: ``done``, then ``error`` ('' or a reason) and ``value``."""

    __slots__ = ("_callbacks", "_map", "attempts", "done", "error", "number", "op", "sent_at", "value")

    def __init__(self, number: int, op: list, convert: Callable[[Any], Any] | None) -> None:
        self.number = number
        self.op = op
        self.done = False
        self.error = ""
        self.value: Any = None
        self.attempts = 0
        self.sent_at = -math.inf
        self._map = convert
        self._callbacks: list[Callable[[Call], None]] = []

    def then(self, callback: Callable[[Call], None]) -> Call:
        """Run ``callback(self)`` when complete (at once if it is)."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)
        return self

    def result(self) -> Any:
        """The value; GcsError if the store refused, RuntimeError if there is no answer yet."""
        if not self.done:
            raise RuntimeError("the control store has not answered yet")
        if self.error:
            raise GcsError(self.error)
        return self.value

    def _complete(self, error: str, value: Any) -> None:
        self.error = error
        self.value = self._map(value) if self._map is not None and not error else value
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


class Watch:
    """A subscription.  ``callback(version, reset, changes)``: with ``reset``, the changes are the whole state."""

    __slots__ = ("asked_at", "callback", "number", "prefix", "seen", "unacked", "waiting")

    def __init__(self, number: int, prefix: bytes, callback: Callable[[int, bool, list[Change]], None]) -> None:
        self.number = number
        self.prefix = prefix
        self.callback = callback
        self.seen = -1
        self.unacked = 0  # changes received since the last acknowledgement
        self.asked_at = -math.inf
        self.waiting = False  # asked, and nothing has come since


Done = Callable[[Call], None] | None


class GcsClient:
    """One process's access to the control store.

    ``send(peer, message)`` queues a message; ``configure`` says where the chain is; the owner of the client feeds it
    GcsReply, GcsRedirect and GcsEvents through ``on_message`` and the time through ``tick``.
    """

    def __init__(self, incarnation: bytes, send: Send, members: Iterable[bytes] = (), epoch: int = 0) -> None:
        self.incarnation = incarnation
        self.epoch = epoch
        self.members: tuple[bytes, ...] = tuple(members)
        self.counters: Counter[str] = Counter()
        self._send = send
        self._now = 0.0
        self._next_update = 1
        self._next_read = -1
        self._open: dict[int, Call] = {}  # by number, oldest first
        self._held: deque[Call] = deque()  # updates beyond the window the store remembers
        self._watches: dict[int, Watch] = {}
        self._asking: set[int] = set()  # watches that wait for an answer
        self._next_watch = 1

    # ------------------------------------------------------------ operations

    def put(self, key: bytes, value: bytes, done: Done = None) -> Call:
        """value: whether the key existed."""
        return self._update([tables.PUT, key, value], done, lambda r: r[0])

    def delete(self, key: bytes, done: Done = None) -> Call:
        """value: whether the key existed."""
        return self._update([tables.DELETE, key], done)

    def compare_and_set(self, key: bytes, expected: bytes | None, new: bytes | None, done: Done = None) -> Call:
        """value: (swapped, what the key holds now); None stands for an absent key."""
        return self._update([tables.COMPARE_AND_SET, key, expected, new], done, lambda r: (r[0], r[1]))

    def get(self, key: bytes, done: Done = None) -> Call:
        """value: bytes or None."""
        return self._read([tables.GET, key], done, lambda r: r[0])

    def list_prefix(self, prefix: bytes, done: Done = None, *, values: bool = True) -> Call:
        """value: [(key, value | None), ...] in key order, all pages.  Each page is atomic, the whole need not be."""
        whole = Call(0, [tables.LIST, prefix], None)
        items: list[tuple[bytes, bytes | None]] = []

        def page(call: Call) -> None:
            if call.error:
                whole._complete(call.error, None)
                return
            rows, more = call.value
            items.extend((key, value) for key, value, _ in rows)
            if more:
                self._read([tables.LIST, prefix, rows[-1][0], tables.LIST_ROWS_MAX, values], page)
            else:
                whole._complete("", items)

        self._read([tables.LIST, prefix, b"", tables.LIST_ROWS_MAX, values], page)
        return whole.then(done) if done is not None else whole

    def forget_client(self, incarnation: bytes, done: Done = None) -> Call:
        """Drop what the store remembers of a dead process's requests."""
        return self._update([tables.FORGET, incarnation], done)

    def issue(self, op: list, done: Callable[[Call], None]) -> Call:
        """Any operation of zray.gcs.tables, its result as it is there."""
        if tables.refusal(op):
            return self._update(op, done)  # which says why not
        return (self._read if op[0] in tables.READS else self._update)(op, done)

    # ------------------------------------------------------------ typed tables

    def register_function(self, key: bytes, blob: bytes, done: Done = None) -> Call:
        """Store a pickled function once.  value: True if it was new."""
        return self._update([tables.COMPARE_AND_SET, FUNCTIONS + key, None, blob], done, lambda r: r[0])

    def get_function(self, key: bytes, done: Done = None) -> Call:
        return self.get(FUNCTIONS + key, done)

    def await_function(self, key: bytes, arrived: Callable[[bytes], None]) -> int:
        """``arrived(blob)`` as soon as somebody has stored the function; returns the number of the watch, to end it."""
        def changed(version: int, reset: bool, changes: list[Change]) -> None:
            blob = next((change.value for change in changes if change.value is not None), None)
            if blob is not None:
                arrived(blob)

        return self.subscribe(FUNCTIONS + key, changed)

    def drop_functions(self, job: bytes) -> None:
        """Forget the functions whose keys begin with ``job``: nobody is left to call them."""
        def listed(call: Call) -> None:
            for key, _ in call.value or ():
                self.delete(key)

        self.list_prefix(FUNCTIONS + job, listed, values=False)

    def claim_name(self, namespace: str, name: str, actor: bytes, done: Done = None) -> Call:
        """value: (claimed, the actor that holds the name now)."""
        return self.compare_and_set(scoped(NAMES, namespace, name), None, actor, done)

    def release_name(self, namespace: str, name: str, actor: bytes, done: Done = None) -> Call:
        """Give the name up if ``actor`` holds it.  value: whether it did."""
        return self._update([tables.COMPARE_AND_SET, scoped(NAMES, namespace, name), actor, None], done,
                            lambda r: r[0])

    def lookup_name(self, namespace: str, name: str, done: Done = None) -> Call:
        """value: the actor's id or None."""
        return self.get(scoped(NAMES, namespace, name), done)

    def list_names(self, namespace: str | None = None, done: Done = None) -> Call:
        """value: [(namespace, name, actor), ...]; of all namespaces when None."""
        prefix = NAMES if namespace is None else scoped(NAMES, namespace)
        return self._listed(prefix, lambda key, value: (*_text(unscoped(NAMES, key)), value), done)

    def record_job(self, job: int, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(JOBS + job.to_bytes(4, "big"), record, done)

    def list_jobs(self, done: Done = None) -> Call:
        """value: [(job, record), ...]."""
        return self._listed(JOBS, lambda key, value: (int.from_bytes(key[len(JOBS):], "big"),
                                                      tables.unpack_record(value)), done)

    def record_actor(self, actor: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(ACTORS + actor, record, done)

    def get_actor(self, actor: bytes, done: Done = None) -> Call:
        return self._unpacked(ACTORS + actor, done)

    def list_actors(self, done: Done = None) -> Call:
        """value: [(actor, record), ...]."""
        return self._records(ACTORS, done)

    def claim_group_name(self, namespace: str, name: str, group: bytes, done: Done = None) -> Call:
        """value: (claimed, the placement group that holds the name now)."""
        return self.compare_and_set(scoped(GROUP_NAMES, namespace, name), None, group, done)

    def release_group_name(self, namespace: str, name: str, group: bytes, done: Done = None) -> Call:
        return self._update([tables.COMPARE_AND_SET, scoped(GROUP_NAMES, namespace, name), group, None], done,
                            lambda r: r[0])

    def lookup_group_name(self, namespace: str, name: str, done: Done = None) -> Call:
        """value: the placement group's id or None."""
        return self.get(scoped(GROUP_NAMES, namespace, name), done)

    def record_group(self, group: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(GROUPS + group, record, done)

    def replace_group(self, group: bytes, old: dict[str, Any], new: dict[str, Any], done: Done = None) -> Call:
        """value: whether the record still was ``old``, and is ``new`` now."""
        return self._update([tables.COMPARE_AND_SET, GROUPS + group, tables.pack_record(old), tables.pack_record(new)],
                            done, lambda r: r[0])

    def get_group(self, group: bytes, done: Done = None) -> Call:
        return self._unpacked(GROUPS + group, done)

    def list_groups(self, done: Done = None) -> Call:
        """value: [(placement group, record), ...]."""
        return self._records(GROUPS, done)

    def record_node(self, node: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(NODES + node, record, done)

    def list_nodes(self, done: Done = None) -> Call:
        """value: [(node, record), ...]."""
        return self._records(NODES, done)

    def record_location(self, oid: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(LOCATIONS + oid, record, done)

    def get_location(self, oid: bytes, done: Done = None) -> Call:
        return self._unpacked(LOCATIONS + oid, done)

    def kv_put(self, key: bytes, value: bytes, namespace: str = "", overwrite: bool = True, done: Done = None) -> Call:
        """value: whether the key existed before (then, without ``overwrite``, it is unchanged)."""
        where = scoped(KV, namespace, key)
        if overwrite:
            return self.put(where, value, done)
        return self._update([tables.COMPARE_AND_SET, where, None, value], done, lambda r: not r[0])

    def kv_get(self, key: bytes, namespace: str = "", done: Done = None) -> Call:
        return self.get(scoped(KV, namespace, key), done)

    def kv_del(self, key: bytes, namespace: str = "", done: Done = None) -> Call:
        return self.delete(scoped(KV, namespace, key), done)

    def kv_exists(self, key: bytes, namespace: str = "", done: Done = None) -> Call:
        """The first key that starts with ``key`` is ``key`` itself, if it is there: no value travels."""
        where = scoped(KV, namespace, key)
        return self._read([tables.LIST, where, b"", 1, False], done, lambda r: bool(r[0]) and r[0][0][0] == where)

    def kv_list(self, prefix: bytes = b"", namespace: str = "", done: Done = None) -> Call:
        """value: keys with ``prefix``, in order."""
        return self._listed(scoped(KV, namespace, prefix), lambda key, _: unscoped(KV, key)[1], done, values=False)

    def _record(self, key: bytes, record: dict[str, Any] | None, done: Done) -> Call:
        return self.delete(key, done) if record is None else self.put(key, tables.pack_record(record), done)

    def _unpacked(self, key: bytes, done: Done) -> Call:
        return self._read([tables.GET, key], done, lambda r: None if r[0] is None else tables.unpack_record(r[0]))

    def _records(self, table: bytes, done: Done) -> Call:
        return self._listed(table, lambda key, value: (key[len(table):], tables.unpack_record(value)), done)

    def _listed(self, prefix: bytes, row: Callable[[bytes, Any], Any], done: Done, *, values: bool = True) -> Call:
        listed = Call(0, [tables.LIST, prefix], lambda items: [row(key, value) for key, value in items])
        self.list_prefix(prefix, lambda call: listed._complete(call.error, call.value), values=values)
        return listed.then(done) if done is not None else listed

    # ------------------------------------------------------------ watches

    def watch(self, prefix: bytes, callback: Callable[[bool, list[Change]], None]) -> int:
        """Subscribe to keys with ``prefix`` (also all longer keys); returns a number to unwatch.

        ``callback(reset, changes)`` first gets the present state (``reset`` True), then every later change once, in
        order.  Should the client fall further behind than the store remembers, it gets the whole state again, marked
        as a reset.
        """
        return self.subscribe(prefix, lambda version, reset, changes: callback(reset, changes))

    def subscribe(self, prefix: bytes, callback: Callable[[int, bool, list[Change]], None]) -> int:
        """As :meth:`watch`; the callback also gets the version that the changes lead up to."""
        number = self._next_watch
        self._next_watch += 1
        watch = self._watches[number] = Watch(number, prefix, callback)
        self._ask_watch(watch)
        return number

    def unwatch(self, number: int) -> None:
        self._asking.discard(number)
        if self._watches.pop(number, None) is not None and self.members:
            self._send(self.members[-1], GcsUnwatch(number))

    # ------------------------------------------------------------ events from outside

    def configure(self, epoch: int, members: Iterable[bytes]) -> None:
        """The chain is now this, head to tail.  Older news is ignored; what is open goes to its new place at once."""
        if epoch <= self.epoch and self.members:
            return
        self.epoch = epoch
        self.members = tuple(members)
        for call in list(self._open.values()):
            if not call.done:
                call.attempts = 0
                self._transmit(call)
        for watch in list(self._watches.values()):
            self._ask_watch(watch)

    def configured(self, config: ChainConfig) -> None:
        self.configure(config.epoch, config.members)

    def on_message(self, peer: bytes, message: Any) -> None:
        """A GcsReply, GcsRedirect or GcsEvents."""
        if isinstance(message, GcsReply):
            self._on_reply(message)
        elif isinstance(message, GcsRedirect):
            self._on_redirect(message)
        elif isinstance(message, GcsEvents):
            self._on_events(message)
        else:
            self.counters["unknown"] += 1

    def tick(self, now: float) -> None:
        """Send again what has had no answer for a while; call every few tens of milliseconds while ``busy``."""
        self._now = max(self._now, now)
        for call in list(self._open.values()):
            if call.sent_at == math.inf:  # sent since the last tick, at a time that nobody has told us
                call.sent_at = now
            elif not call.done and now - call.sent_at >= RETRY_S:
                self._transmit(call, retry=True)
                call.sent_at = now
        for watch in list(self._watches.values()):
            if now - watch.asked_at >= (RETRY_S if watch.waiting else WATCH_ASK_S):
                self._ask_watch(watch, retry=watch.waiting)

    @property
    def busy(self) -> bool:
        """Whether requests, or watches after a change of the chain, wait for answers."""
        return bool(self._open or self._held or self._asking)

    # ------------------------------------------------------------ requests

    def _update(self, op: list, done: Done, convert: Callable[[Any], Any] | None = None) -> Call:
        error = tables.refusal(op)
        if error:  # refused here, it takes no number: the store counts on every number being answered by the chain
            return self._refused(op, error, done)
        call = Call(self._next_update, op, convert)
        self._next_update += 1
        return self._start(call, done)

    def _read(self, op: list, done: Done, convert: Callable[[Any], Any] | None = None) -> Call:
        error = tables.refusal(op)
        if error:
            return self._refused(op, error, done)
        call = Call(self._next_read, op, convert)
        self._next_read -= 1
        return self._start(call, done)

    def _refused(self, op: list, error: str, done: Done) -> Call:
        call = Call(0, op, None)
        call._complete(error, None)
        return call.then(done) if done is not None else call

    def _start(self, call: Call, done: Done) -> Call:
        if done is not None:
            call.then(done)
        if call.number > 0 and (self._held or call.number >= self._acked() + WINDOW):
            self._held.append(call)
            return call
        self._open[call.number] = call
        self._transmit(call)
        return call

    def _acked(self) -> int:
        """The number below which every update of mine is answered."""
        return next((n for n in self._open if n > 0), self._held[0].number if self._held else self._next_update)

    def _transmit(self, call: Call, retry: bool = False) -> None:
        call.sent_at = math.inf
        if retry:
            call.attempts += 1
            self.counters["retries"] += 1
        if not self.members:
            return  # sent when configured
        place = 0 if call.number > 0 else len(self.members) - 1
        peer = self.members[(place + call.attempts) % len(self.members)]
        acked = min(self._acked(), call.number) if call.number > 0 else 0
        self._send(peer, GcsRequest(call.number, acked, call.op))

    def _on_reply(self, message: GcsReply) -> None:
        call = self._open.pop(message.number, None)
        if call is None:
            self.counters["late"] += 1
            return
        while self._held and self._held[0].number < self._acked() + WINDOW:
            held = self._held.popleft()
            self._open[held.number] = held
            self._transmit(held)
        call._complete(message.error, message.result)

    def _on_redirect(self, message: GcsRedirect) -> None:
        if message.epoch > self.epoch and message.members:
            self.configure(message.epoch, message.members)
            return
        self.counters["redirects"] += 1
        call = self._open.get(message.number)
        if call is not None and message.epoch == self.epoch and call.attempts:
            call.attempts = -1  # the next retry goes to its proper place

    def again(self, peer: bytes, number: int) -> None:
        """Send once more what ``peer`` redirected, because it had not heard yet of the configuration that I know."""
        call = self._open.get(number)
        if call is not None:
            call.attempts = 0
            self._transmit(call)
        elif not number and self.members and peer == self.members[-1]:
            for watch in list(self._watches.values()):
                if watch.waiting:
                    self._ask_watch(watch)

    # ------------------------------------------------------------ watch streams

    def _ask_watch(self, watch: Watch, retry: bool = False) -> None:
        watch.asked_at = self._now
        watch.waiting = True
        self._asking.add(watch.number)
        watch.unacked = 0
        if not self.members:
            return
        peer = self.members[-1]
        if retry:
            self.counters["watch_retries"] += 1
            peer = self.members[self.counters["watch_retries"] % len(self.members)]
        self._send(peer, GcsWatch(watch.number, watch.prefix, watch.seen))

    def _on_events(self, message: GcsEvents) -> None:
        watch = self._watches.get(message.watch)
        if watch is None:
            self.counters["late"] += 1
            return
        # A reset answers one question; if I have moved on since I asked, the changes after where I am are better.
        if message.previous != watch.seen if message.reset else message.previous > watch.seen:
            self.counters["watch_gap"] += 1
            if not watch.waiting:
                self._ask_watch(watch)
            return
        watch.waiting = False
        self._asking.discard(watch.number)
        if message.version <= watch.seen:
            return
        fresh = [Change(*change) for change in message.changes if message.reset or change[0] > watch.seen]
        watch.seen = message.version
        watch.unacked += len(fresh)
        if watch.unacked >= WATCH_CREDIT // 4:
            self._ask_watch(watch)
        if message.reset or fresh:
            watch.callback(message.version, message.reset, fresh)

    # ------------------------------------------------------------ invariants

    def check(self) -> None:
        """Raise AssertionError when the client's invariants are broken."""
        updates = [n for n in self._open if n > 0]
        held = [call.number for call in self._held]
        assert updates == sorted(updates) and (not updates or updates[-1] < updates[0] + WINDOW)
        assert held == sorted(held) and not (held and updates and held[0] <= updates[-1])
        assert all(not call.done and call.number == n for n, call in self._open.items())
        assert all(0 < n < self._next_update for n in updates + held)
        assert not (held and not updates), "held requests wait for open ones"
        assert all(watch.seen >= -1 for watch in self._watches.values())
        assert self._asking == {number for number, watch in self._watches.items() if watch.waiting}


def _text(scope: tuple[str, bytes]) -> tuple[str, str]:
    return scope[0], scope[1].decode()
