"""The state of simulated actors with checkpoints, and the proof that it is the sequential one.

The state of an actor is the list of the calls that were applied; the result of a call is a number of the whole list.
So a result that a caller has seen fixes the state up to its call.  A later life must come to the same state: then no
acknowledged call was lost, applied twice or put into another place.  What only a dead caller has seen is not fixed.
"""

from __future__ import annotations

from collections.abc import Callable

from zray.sim.failure import Violation
from zray.sim.programs import mix
from zray.sim.views import CoreView


class Applied:
    """What was applied, and what was seen of it; ``is_lost(core)``: others may behave as if it were dead."""

    def __init__(self, is_lost: Callable[[CoreView], bool], lives: Callable[[bytes], bool]) -> None:
        self._is_lost = is_lost
        self._lives = lives
        self.made: dict[bytes, tuple[bytes, int]] = {}  # result of a call -> (actor, x)
        self.places: dict[tuple[bytes, int], tuple[int, int]] = {}  # (actor, number) -> (place in the state, x)
        self.seen: dict[tuple[bytes, int], tuple[int, bytes]] = {}  # (actor, place) -> (number, caller)
        self.replayed = 0  # calls that ran again after a restart
        self.restored = 0  # lives that began with a checkpoint
        self._count = 0

    def fresh(self) -> int:
        """A number that no other call applies."""
        self._count += 1
        return self._count

    def called(self, actor: bytes, oid: bytes, x: int) -> None:
        self.made[oid] = actor, x

    def ran(self, worker: CoreView, actor: bytes, state: list[int], x: int) -> int:
        """A call is applied; returns its result."""
        if x in state:
            raise Violation(f"call {x} is applied twice to actor {actor.hex()}: {state}")
        state.append(x)
        number = mix(*state)
        place = len(state) - 1
        self.places[actor, number] = place, x
        known = self.seen.get((actor, place))
        if known is not None and known[0] != number and not self._is_lost(worker):
            if self._lives(known[1]):
                raise Violation(f"actor {actor.hex()} applies call {x} in place {place}, where {known[1]!r} has seen "
                                f"another one: {state}, not {self.places[actor, known[0]]}")
            for later in [key for key in self.seen if key[0] == actor and key[1] >= place]:
                if not self._lives(self.seen[later][1]):
                    del self.seen[later]
        return number

    def observed(self, core: CoreView, oid: bytes, number: int) -> None:
        """A caller has a result."""
        actor, x = self.made[oid]
        if self._is_lost(core):
            return
        place, applied = self.places.get((actor, number), (-1, -1))
        if applied != x:
            raise Violation(f"the result of call {x} of actor {actor.hex()} belongs to call {applied}")
        known = self.seen.get((actor, place))
        if known is not None and known[0] != number and self._lives(known[1]):
            raise Violation(f"two calls of actor {actor.hex()} have place {place}")
        self.seen[actor, place] = number, core.incarnation
