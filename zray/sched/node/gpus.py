"""Which GPU devices a lease gets.  Pure.

Whole GPUs are the lowest free ids, and belong to one lease.  A fraction below one lives on one device, on the fullest
that still has room (ties to the lowest id), so that whole devices stay free for whole demands.  More than one GPU must
be whole: 1.5 GPUs would be half of a device that the process sees as whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from zray.sched.resources import UNIT

Slices = tuple[tuple[int, int], ...]  # (position of the device, units), by rising position


class GpuPool:
    """The devices of one node and how much of each is free."""

    __slots__ = ("_free", "_size", "ids")

    def __init__(self, total: int, ids: Sequence[int | str] | None = None) -> None:
        count = -(-total // UNIT)
        self.ids: list[int | str] = list(range(count)) if ids is None else list(ids)
        if len(self.ids) < count or len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{total / UNIT} GPUs need {count} different device ids, not {self.ids!r}")
        self._size = [min(UNIT, total - UNIT * position) for position in range(count)]
        self._free = list(self._size)

    def copy(self) -> GpuPool:
        """Another pool in the same state, to plan with."""
        twin = GpuPool.__new__(GpuPool)
        twin.ids, twin._size, twin._free = self.ids, self._size, list(self._free)
        return twin

    @staticmethod
    def valid(need: int) -> bool:
        """Whether any node could grant this many units: fractions exist only below one GPU."""
        return need < UNIT or need % UNIT == 0

    def holds(self, need: int) -> bool:
        """Whether it would fit if every device were free."""
        if not self.valid(need):
            return False
        if need < UNIT:
            return need == 0 or any(size >= need for size in self._size)
        return self._size.count(UNIT) * UNIT >= need

    def fits(self, need: int) -> bool:
        if need < UNIT:
            return need == 0 or any(free >= need for free in self._free)
        return self.valid(need) and self._free.count(UNIT) * UNIT >= need

    def take(self, need: int) -> Slices:
        """Slices for ``need`` units; the caller has asked ``fits`` before."""
        assert self.fits(need), f"{need} GPU units do not fit"
        if need == 0:
            return ()
        if need < UNIT:
            room = [(free, position) for position, free in enumerate(self._free) if free >= need]
            chosen: Slices = ((min(room)[1], need),)
        else:
            whole = (position for position, free in enumerate(self._free) if free == UNIT)
            chosen = tuple((next(whole), UNIT) for _ in range(need // UNIT))
        for position, share in chosen:
            self._free[position] -= share
        return chosen

    def give(self, slices: Slices) -> None:
        for position, share in slices:
            self._free[position] += share
            assert self._free[position] <= self._size[position], f"GPU {self.ids[position]} given back twice"

    def named(self, slices: Slices) -> list[int | str]:
        return [self.ids[position] for position, _ in slices]

    @property
    def available(self) -> int:
        return sum(self._free)

    def check(self) -> None:
        assert all(0 <= free <= size for free, size in zip(self._free, self._size, strict=True))
