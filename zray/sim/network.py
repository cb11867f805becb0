"""A simulated network with its clock: one thread, one seed, one schedule.

Machines register a handler.  ``send`` delivers after a random delay, so out of order, perhaps twice, perhaps never.
Timers use the same clock.  Every event goes into a running hash, so two runs can be compared by one string.  All
randomness comes from the seed: no clock, no ``random``, no order of a set.

    net = SimNetwork(seed, Faults(drop=0.05))
    net.register(b"a", lambda source, message: ...)
    net.send(b"a", b"b", message);  net.call_at(1.5, tick)
    net.run_until(2.0);  net.heal();  net.run_until(3.0);  net.trace_hash()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Any

Handler = Callable[[bytes, Any], None]


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to a message; delays are uniform, and with probability ``slow`` ten times longer."""

    delay_s_min: float = 0.001
    delay_s_max: float = 0.01
    slow: float = 0.02
    drop: float = 0.0
    duplicate: float = 0.0


class SimNetwork:
    """Seeded event queue, simulated clock, links with faults."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.counters: Counter[str] = Counter()
        self._handlers: dict[bytes, Handler] = {}
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._number = 0  # breaks ties in the order of scheduling
        self._cut: dict[tuple[bytes, bytes], bool] = {}
        self._trace = blake2b(str(seed).encode(), digest_size=16)

    # ------------------------------------------------------------ machines

    def register(self, name: bytes, handler: Handler) -> None:
        self._handlers[name] = handler

    def crash(self, name: bytes) -> None:
        """The machine stops for ever: messages to it are lost, messages that it sent still arrive."""
        self._handlers.pop(name, None)
        self.trace("crash", name)

    def alive(self, name: bytes) -> bool:
        return name in self._handlers

    # ------------------------------------------------------------ links

    def send(self, source: bytes, target: bytes, message: Any) -> float | None:
        """Deliver after a while; returns when the last copy arrives, None when the message is lost."""
        faults, draw = self.faults, self.random.random
        if (self._cut and self._cut.get((source, target))) or draw() < faults.drop:
            self.counters["dropped"] += 1
            return None
        arrival = self.now
        copies = 2 if draw() < faults.duplicate else 1
        self.counters["duplicated"] += copies - 1
        for _ in range(copies):
            delay = faults.delay_s_min + (faults.delay_s_max - faults.delay_s_min) * draw()  # what uniform() does
            if draw() < faults.slow:
                delay *= 10
            self.call_at(self.now + delay, self._deliver, source, target, message)
            arrival = max(arrival, self.now + delay)
        return arrival

    def deliver_at(self, when: float, source: bytes, target: bytes, message: Any) -> None:
        """Deliver by a way that has no faults."""
        self.call_at(when, self._deliver, source, target, message)

    def cut(self, one: bytes, other: bytes) -> None:
        """Lose all messages between the two, until :meth:`join`."""
        self._cut[one, other] = self._cut[other, one] = True
        self.trace("cut", one, other)

    def join(self, one: bytes, other: bytes) -> None:
        self._cut.pop((one, other), None)
        self._cut.pop((other, one), None)
        self.trace("join", one, other)

    def joined(self, one: bytes, other: bytes) -> bool:
        """Whether messages between the two arrive."""
        return not self._cut.get((one, other))

    def isolate(self, name: bytes) -> None:
        """Cut a machine off from all others."""
        for other in self._handlers:
            if other != name:
                self.cut(name, other)

    def heal(self) -> None:
        """No more faults: now everything that should happen must happen."""
        self.faults = Faults(self.faults.delay_s_min, self.faults.delay_s_max, slow=0.0)
        self._cut.clear()
        self.trace("heal")

    def _deliver(self, source: bytes, target: bytes, message: Any) -> None:
        handler = self._handlers.get(target)
        if handler is None:
            self.counters["to_dead"] += 1
            return
        self.counters["delivered"] += 1
        self.trace_delivery(source, target, message)
        handler(source, message)

    # ------------------------------------------------------------ time

    def call_at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Run ``action(*args)`` at ``when`` (not before now)."""
        self._number = number = self._number + 1
        heappush(self._events, (when if when > self.now else self.now, number, action, args))

    def step(self) -> bool:
        """Run the next event; False when there is none."""
        if not self._events:
            return False
        self.now, _, action, args = heappop(self._events)
        action(*args)
        return True

    def run_until(self, when: float, condition: Callable[[], bool] | None = None) -> bool:
        """Run events up to time ``when``, or until ``condition()``; returns whether the condition came true."""
        events = self._events
        while events and events[0][0] <= when:
            if condition is not None and condition():
                return True
            self.now, _, action, args = heappop(events)
            action(*args)
        self.now = max(self.now, when)
        return condition is not None and condition()

    # ------------------------------------------------------------ trace

    def trace(self, *event: Any) -> None:
        """Add an event to the running hash of this run."""
        self._trace.update(repr((self.now, event)).encode())

    def trace_delivery(self, source: bytes, target: bytes, message: Any) -> None:
        self.trace("deliver", source, target, type(message).__name__, message)

    def trace_hash(self) -> str:
        return self._trace.hexdigest()
