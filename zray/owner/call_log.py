"""The calls of this process to one actor with checkpoints, until a checkpoint covers them (pure).

    call     pushed       gets a number; kept with its arguments
             answered     the reply has its start (0: it never started, so it is dropped)
             given up     its caller got an error instead of the reply: kept, because others may have seen its effect
             covered      a checkpoint covers its start: dropped

After a restart of the actor the caller offers what it keeps, before it pushes anything (``offer``).  Only answered
calls count against ``limit`` bytes.  Beyond half of it the caller asks for a checkpoint; beyond all of it calls wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zray.owner.records import Task
from zray.wire.messages import OfferCalls

# Bytes that a call counts at least: its record and its part of the tables.
CALL_BYTES_MIN = 512
# Calls and entries of the order in one offer.
OFFER_CALLS = 512

Wire = tuple[Any, ...]


class LoggedCall:
    """A call that was pushed."""

    __slots__ = ("counted", "life", "nbytes", "pending", "pins", "start", "wire")

    def __init__(self, wire: Wire, pins: list[Any] | None, life: int, nbytes: int):
        self.wire = wire
        self.pins = pins
        self.life = life  # in which it was pushed last
        self.nbytes = nbytes
        self.start = 0
        self.pending = True
        self.counted = False  # in the log's bytes


class CallLog:
    """See the module's docstring."""

    def __init__(self, limit: int, unpin: Callable[[list[Any]], None]):
        self.limit = limit
        self._unpin = unpin
        self.calls: dict[int, LoggedCall] = {}
        self.pending: dict[int, None] = {}  # numbers that this process waits for, rising
        self.number_of: dict[Task, int] = {}
        self.in_flight: dict[tuple[int, int], int] = {}  # (life, sequence) -> number
        self.order: dict[int, tuple[bytes, int]] = {}  # start -> (caller, number), as far as this process was told
        self.covered = 0
        self.last = 0
        self.bytes = 0  # of answered calls
        self.offered = 0  # the life that has the offer; life 0 needs none
        self.asked = False

    @property
    def ended(self) -> int:
        """This process waits for no call up to this number."""
        return next(iter(self.pending), self.last + 1) - 1

    @property
    def is_full(self) -> bool:
        return self.bytes > self.limit

    @property
    def wants_checkpoint(self) -> bool:
        """Whether to ask for a checkpoint now."""
        return not self.asked and self.bytes * 2 > self.limit

    # ------------------------------------------------------------ calls

    def pushed(self, task: Task, life: int, sequence: int, wire: Wire) -> int:
        """The call goes to the actor; returns its number, which stays when a later life gets it again."""
        number = self.number_of.get(task)
        if number is None:
            self.last = number = self.last + 1
            self.number_of[task] = number
            self.pending[number] = None
            for record in task.pins or ():
                record.refs += 1
            self.calls[number] = LoggedCall(wire, task.pins, life, _bytes_of(wire))
        else:
            self.calls[number].life = life
        self.in_flight[life, sequence] = number
        return number

    def answered(self, life: int, sequence: int, start: int, task: Task) -> None:
        """The reply to a call is here."""
        number = self.in_flight.pop((life, sequence), None)
        if number is None:
            return
        self._settle(task, number)
        call = self.calls.get(number)
        if call is None:
            return
        call.pending = False
        call.start = start
        if start <= self.covered:  # it never started, or it is covered already
            self._drop(number)
        else:
            call.counted = True
            self.bytes += call.nbytes

    def gave_up(self, task: Task) -> None:
        """The caller gets an error: the call may have run, and others may have seen its effect."""
        number = self.number_of.get(task)
        if number is not None:
            self._settle(task, number)
            self.calls[number].pending = False

    def _settle(self, task: Task, number: int) -> None:
        self.number_of.pop(task, None)
        self.pending.pop(number, None)

    def told(self, order: list[Any]) -> None:
        """Starts of calls of others."""
        flat = iter(order)
        for start, caller, number in zip(flat, flat, flat, strict=True):
            if start > self.covered:
                self.order[start] = caller, number

    def cover(self, start: int, life: int) -> None:
        """A stored checkpoint of that life covers these starts."""
        self.asked = False
        self.covered = max(self.covered, start)
        for number in [number for number, call in self.calls.items() if not call.pending and (
                0 < call.start <= start or call.start == 0 and call.life < life)]:
            self._drop(number)
        for known in [known for known in self.order if known <= start]:
            del self.order[known]

    def _drop(self, number: int) -> None:
        call = self.calls.pop(number)
        if call.counted:
            self.bytes -= call.nbytes
        if call.pins:
            self._unpin(call.pins)

    def clear(self) -> None:
        """The actor is dead."""
        for number in list(self.calls):
            self._drop(number)
        self.number_of.clear()
        self.in_flight.clear()
        self.pending.clear()
        self.order.clear()
        self.bytes = 0

    # ------------------------------------------------------------ after a restart

    def offer(self, actor: bytes, life: int) -> Iterator[OfferCalls]:
        """What a new life needs of this process."""
        self.offered = life
        self.asked = False
        self.in_flight.clear()  # no reply of an earlier life comes any more
        calls = [[number, call.start, *call.wire] for number, call in self.calls.items()]
        order: list[Any] = []
        for start, (caller, number) in self.order.items():
            order += (start, caller, number)
        step = 3 * OFFER_CALLS
        while True:
            part, calls = calls[:OFFER_CALLS], calls[OFFER_CALLS:]
            known, order = order[:step], order[step:]
            yield OfferCalls(actor, life, part, known, self.ended, bool(calls or order))
            if not (calls or order):
                return

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        counted = sum(call.nbytes for call in self.calls.values() if call.counted)
        assert self.bytes == counted, "bytes are counted wrongly"
        assert set(self.pending) == {number for number, call in self.calls.items() if call.pending}
        assert set(self.number_of.values()) == set(self.pending)
        assert all(start > self.covered for start in self.order)
        assert list(self.pending) == sorted(self.pending)


def _bytes_of(wire: Wire) -> int:
    """The bytes that keeping a call costs: its arguments by value."""
    nbytes = CALL_BYTES_MIN + (len(wire[3]) if type(wire[3]) is bytes else 0)
    for value in (wire[5] or {}).get("deps", ()):
        nbytes += len(value) if type(value) is bytes else 0
    return nbytes
