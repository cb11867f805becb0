"""The obvious allocator: a bytearray that says for every 64-byte unit who has it."""

from __future__ import annotations

UNIT = 64


class NaiveArena:
    def __init__(self) -> None:
        self.owner: list[int] = []  # per unit: 0 free, else the number of its range
        self.count = 0

    def grow(self, size: int) -> None:
        self.owner += [0] * (size // UNIT)

    def fits(self, size: int) -> bool:
        return self.largest() >= size

    def take(self, offset: int, size: int) -> None:
        first, last = offset // UNIT, (offset + size) // UNIT
        assert offset % UNIT == 0 and last <= len(self.owner), "outside of the arena"
        assert not any(self.owner[first:last]), "handed out twice"
        self.count += 1
        self.owner[first:last] = [self.count] * (last - first)

    def give(self, offset: int, size: int) -> None:
        first, last = offset // UNIT, (offset + size) // UNIT
        assert len(set(self.owner[first:last])) == 1 and self.owner[first], "not one range"
        self.owner[first:last] = [0] * (last - first)

    def runs(self) -> list[tuple[int, int]]:
        """Free ranges (offset, size) in order."""
        out: list[tuple[int, int]] = []
        for unit, owner in enumerate(self.owner):
            if owner:
                continue
            if out and out[-1][0] + out[-1][1] == unit * UNIT:
                out[-1] = out[-1][0], out[-1][1] + UNIT
            else:
                out.append((unit * UNIT, UNIT))
        return out

    def largest(self) -> int:
        return max((size for _, size in self.runs()), default=0)

    def free_bytes(self) -> int:
        return self.owner.count(0) * UNIT
