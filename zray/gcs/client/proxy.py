"""A node's proxy to the control store for its processes: requests and watches, by the node's own client.  Pure.

A core process has one peer, its node, and numbers its requests and watches itself.  The node issues each request once
under numbers of its own, which the chain knows to apply at most once, and answers under the number of the process.

    GcsRequest n    new: issue it.  in flight: the answer will come.  answered: the same answer again.
                    below what the process has acknowledged: dropped.
    GcsWatch w      new: subscribe.  at its position: credit.  behind it, twice: the present state again, as a reset.

All of it dies with the process (``forget``) or with the node, and with the node its processes die too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from zray.gcs.client.client import Call, GcsClient
from zray.gcs.replica.changes import WATCH_CREDIT
from zray.gcs.replica.dedupe import CLIENT_WINDOW
from zray.gcs.replica.tables import Change
from zray.wire.messages import GcsEvents, GcsReply, GcsRequest, GcsUnwatch, GcsWatch

# Watches of one process: an owner watches the actors it calls.
WATCHES_MAX = 16_384


class _Stream:
    """One watch of one process."""

    __slots__ = ("asked", "behind", "number", "prefix", "sent", "unacked")

    def __init__(self, prefix: bytes, seen: int) -> None:
        self.prefix = prefix
        self.number = 0  # of the watch of the node's client
        self.sent = seen  # position up to which the process has got changes
        self.unacked: deque[int] = deque()  # versions of changes sent since the process last acknowledged
        self.asked = -2  # position of a question from behind
        self.behind = True  # the next change is not the one after ``sent``: only the whole state will do


class _Process:
    __slots__ = ("answers", "floor", "reads", "streams")

    def __init__(self) -> None:
        self.floor = 1
        self.answers: dict[int, GcsReply | None] = {}  # by update number; None: under way
        self.reads: set[int] = set()  # under way
        self.streams: dict[int, _Stream] = {}


class Proxy:
    """See the table above.  ``send(process, message)`` queues an answer."""

    def __init__(self, client: GcsClient, send: Callable[[bytes, Any], None]) -> None:
        self.client = client
        self.counters: Counter[str] = Counter()
        self._send = send
        self._processes: dict[bytes, _Process] = {}

    def on_message(self, peer: bytes, message: Any) -> None:
        """A GcsRequest, GcsWatch or GcsUnwatch of a process on this node."""
        process = self._processes.setdefault(peer, _Process())
        if isinstance(message, GcsRequest):
            self._on_request(peer, process, message)
        elif isinstance(message, GcsWatch):
            self._on_watch(peer, process, message)
        elif isinstance(message, GcsUnwatch):
            stream = process.streams.pop(message.watch, None)
            if stream is not None:
                self.client.unwatch(stream.number)

    def forget(self, peer: bytes) -> None:
        """The process has ended; its requests may still take effect."""
        process = self._processes.pop(peer, None)
        if process is not None:
            for stream in process.streams.values():
                self.client.unwatch(stream.number)

    # ------------------------------------------------------------ requests

    def _on_request(self, peer: bytes, process: _Process, request: GcsRequest) -> None:
        number = request.number
        if number <= 0:
            if number not in process.reads and len(process.reads) < CLIENT_WINDOW:
                process.reads.add(number)
                self.client.issue(request.op, lambda call: self._answer(peer, process, number, call))
            return
        if request.acked > process.floor:
            for old in range(process.floor, min(request.acked, process.floor + CLIENT_WINDOW)):
                process.answers.pop(old, None)
            process.floor = request.acked
        if number < process.floor or number in process.answers:
            known = process.answers.get(number)
            if known is not None:
                self._send(peer, known)
            return
        if number >= process.floor + CLIENT_WINDOW:
            self.counters["too_far"] += 1
            return
        process.answers[number] = None
        self.client.issue(request.op, lambda call: self._answer(peer, process, number, call))

    def _answer(self, peer: bytes, process: _Process, number: int, call: Call) -> None:
        if self._processes.get(peer) is not process:
            return
        reply = GcsReply(number, call.error, call.value)
        process.reads.discard(number)
        if number in process.answers:
            process.answers[number] = reply
        self._send(peer, reply)

    # ------------------------------------------------------------ watches

    def _on_watch(self, peer: bytes, process: _Process, message: GcsWatch) -> None:
        stream = process.streams.get(message.watch)
        if stream is None:
            if len(process.streams) >= WATCHES_MAX:
                self.counters["refused"] += 1
                return
        elif stream.prefix == message.prefix:
            if not stream.number or (stream.behind and not stream.unacked):
                return  # its state is on the way from the store
            while stream.unacked and stream.unacked[0] <= message.seen:
                stream.unacked.popleft()
            if not stream.behind and message.seen >= stream.sent:
                stream.asked = -2
                self._send(peer, GcsEvents(message.watch, stream.sent, stream.sent, False, []))
                return
            if not stream.behind and stream.asked != message.seen:
                stream.asked = message.seen  # the changes that it lacks are probably in flight
                return
        if stream is not None:
            self.client.unwatch(stream.number)
        self._subscribe(peer, process, message)

    def _subscribe(self, peer: bytes, process: _Process, message: GcsWatch) -> None:
        watch = message.watch
        stream = process.streams[watch] = _Stream(message.prefix, message.seen)

        def changed(version: int, reset: bool, changes: list[Change]) -> None:
            if process.streams.get(watch) is not stream or self._processes.get(peer) is not process:
                return
            if not reset and (stream.behind or len(stream.unacked) >= WATCH_CREDIT):
                stream.behind = True  # it does not read; when it asks, it gets the whole state
                return
            self._send(peer, GcsEvents(watch, stream.sent, version, reset, [list(change) for change in changes]))
            stream.behind = False
            stream.sent = version
            if not reset:
                stream.unacked.extend(change.version for change in changes)

        stream.number = self.client.subscribe(message.prefix, changed)

    def check(self) -> None:
        for process in self._processes.values():
            assert all(process.floor <= n < process.floor + CLIENT_WINDOW for n in process.answers)
            assert len(process.reads) <= CLIENT_WINDOW and len(process.streams) <= WATCHES_MAX
            assert all(len(stream.unacked) < 2 * WATCH_CREDIT for stream in process.streams.values())
