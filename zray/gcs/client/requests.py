"""Numbered requests to one shard: windows, retries, redirects.  Pure.

Updates are numbered 1, 2, ...; a retry carries the same number, so an update is applied at most once.  Reads are
numbered -1, -2, ... and are simply asked again.  When answers stay out, the other members are asked too: a replica that
is not the head or tail of its epoch redirects.  The numbers count for one shard, because each chain has its own memory
of a client.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from zray.gcs.replica.dedupe import CLIENT_WINDOW
from zray.gcs.replica.tables import READS
from zray.wire.messages import GcsRedirect, GcsReply, GcsRequest

RETRY_S = 0.1
# A request asked again so often is stuck: failovers take some tenths of a second.
STUCK_RETRIES = 20

Send = Callable[[bytes, Any], object]


class GcsError(Exception):
    """The control store refused a request; the first word of the message is a code of zray.gcs.replica.tables."""

    @property
    def code(self) -> str:
        return str(self).partition(":")[0]


class Call:
    """A request in flight: ``done``, then ``error`` ('' or a reason) and ``value``."""

    __slots__ = ("_callbacks", "_map", "attempts", "done", "error", "number", "op", "retries", "sent_at", "shard",
                 "value")

    def __init__(self, op: list, convert: Callable[[Any], Any] | None = None, shard: int = 0) -> None:
        self.op = op
        self.shard = shard
        self.number = 0  # given by its shard
        self.done = False
        self.error = ""
        self.value: Any = None
        self.attempts = 0
        self.retries = 0  # unlike attempts, these do not begin again with each configuration
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

    def complete(self, error: str, value: Any) -> None:
        self.error = error
        self.value = self._map(value) if self._map is not None and not error else value
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


Done = Callable[[Call], None] | None


class Requests:
    """The requests of one client to one shard, and the members of that shard's chain, from head to tail."""

    def __init__(self, shard: int, send: Send, counters: Counter[str], members: Iterable[bytes], epoch: int) -> None:
        self.shard = shard
        self.members = tuple(members)
        self.epoch = epoch
        self.open: dict[int, Call] = {}  # by number, oldest first
        self._send = send
        self._counters = counters
        self._next_update = 1
        self._next_read = -1
        self._held: deque[Call] = deque()  # updates beyond the window that the store remembers

    def start(self, call: Call) -> None:
        if call.op[0] in READS:
            call.number = self._next_read
            self._next_read -= 1
        else:
            call.number = self._next_update
            self._next_update += 1
            if self._held or call.number >= self._acked() + CLIENT_WINDOW:
                self._held.append(call)
                return
        self.open[call.number] = call
        self._transmit(call)

    def configure(self, epoch: int, members: Iterable[bytes]) -> bool:
        """The chain is now this; whether it has changed.  Open requests go to their new place at once."""
        if epoch <= self.epoch and self.members:
            return False
        self.epoch = epoch
        self.members = tuple(members)
        for call in list(self.open.values()):
            if not call.done:
                call.attempts = 0
                self._transmit(call)
        return True

    def on_reply(self, message: GcsReply) -> None:
        call = self.open.pop(message.number, None)
        if call is None:
            self._counters["late"] += 1
            return
        while self._held and self._held[0].number < self._acked() + CLIENT_WINDOW:
            held = self._held.popleft()
            self.open[held.number] = held
            self._transmit(held)
        call.complete(message.error, message.result)

    def on_redirect(self, message: GcsRedirect) -> None:
        """A redirect to a chain that is known already (see :meth:`configure`)."""
        self._counters["redirects"] += 1
        call = self.open.get(message.number)
        if call is not None and message.epoch == self.epoch and call.attempts:
            call.attempts = -1  # the next retry goes to its proper place

    def again(self, number: int) -> None:
        """Send a request again: the node that redirected it did not know this client's configuration yet."""
        call = self.open.get(number)
        if call is not None:
            call.attempts = 0
            self._transmit(call)

    def tick(self, now: float) -> None:
        for call in list(self.open.values()):
            if call.sent_at == math.inf:  # sent since the last tick, at an unknown time
                call.sent_at = now
            elif not call.done and now - call.sent_at >= RETRY_S:
                self._transmit(call, retry=True)
                call.sent_at = now

    @property
    def busy(self) -> bool:
        return bool(self.open or self._held)

    @property
    def stuck(self) -> bool:
        """Whether some request has been asked again and again."""
        return any(call.retries >= STUCK_RETRIES for call in self.open.values())

    def _acked(self) -> int:
        """The number below which every update of this client is answered."""
        return next((n for n in self.open if n > 0), self._held[0].number if self._held else self._next_update)

    def _transmit(self, call: Call, retry: bool = False) -> None:
        call.sent_at = math.inf
        if retry:
            call.attempts += 1
            call.retries += 1
            self._counters["retries"] += 1
        if not self.members:
            return  # sent when configured
        place = 0 if call.number > 0 else len(self.members) - 1
        peer = self.members[(place + call.attempts) % len(self.members)]
        acked = min(self._acked(), call.number) if call.number > 0 else 0
        self._send(peer, GcsRequest(call.number, acked, call.op, self.shard))

    def check(self) -> None:
        """Raise AssertionError when the invariants are broken."""
        updates = [n for n in self.open if n > 0]
        held = [call.number for call in self._held]
        assert updates == sorted(updates) and (not updates or updates[-1] < updates[0] + CLIENT_WINDOW)
        assert held == sorted(held) and not (held and updates and held[0] <= updates[-1])
        assert all(not call.done and call.number == n and call.shard == self.shard for n, call in self.open.items())
        assert all(0 < n < self._next_update for n in updates + held)
        assert not (held and not updates), "held requests wait for open ones"
