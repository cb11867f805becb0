"""The arena and the heap against the obvious allocator: no overlap, no leak, accounting exact, best fit."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.oracles.naive_arena import NaiveArena
from zray.store.header import FREE, SEALED, Headers, block_bytes
from zray.store.heap import Heap
from zray.store.node.arena import Arena

CAPACITY = 256 * 64


class ArenaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(CAPACITY)
        self.naive = NaiveArena()
        self.held: list[tuple[int, int]] = []

    @rule(units=st.integers(1, 64))
    def grow(self, units: int) -> None:
        size = min(units * 64, CAPACITY - self.arena.reserved)
        if size:
            self.arena.grow(size)
            self.naive.grow(size)

    @rule(units=st.integers(1, 40))
    def allocate(self, units: int) -> None:
        size = units * 64
        best = min((run for run in self.naive.runs() if run[1] >= size), key=lambda run: run[1], default=None)
        offset = self.arena.allocate(size)
        if best is None:
            assert offset is None
            return
        assert offset is not None
        assert dict(self.naive.runs())[offset] == best[1], "not a best fit"
        self.naive.take(offset, size)
        self.held.append((offset, size))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset, size = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.naive.give(offset, size)
        self.arena.free(offset, size)

    @invariant()
    def agrees(self) -> None:
        self.arena.check()
        assert self.arena.ranges() == self.naive.runs()
        assert self.arena.free_bytes == self.naive.free_bytes()
        assert self.arena.largest_free == self.naive.largest()


class HeapMachine(RuleBasedStateMachine):
    """One client's heap over real headers; a dictionary says which payload lies where."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = bytearray(512 * 64)
        self.headers = Headers(self.memory)
        self.heap = Heap(self.headers)
        self.live: dict[int, tuple[int, int]] = {}  # offset -> (nbytes, generation)
        self.next_extent = 0
        self.generation = 0

    @precondition(lambda self: self.next_extent < len(self.memory))
    @rule(units=st.integers(2, 128))
    def grant(self, units: int) -> None:
        size = min(units * 64, len(self.memory) - self.next_extent)
        self.headers.format(self.next_extent, size)
        self.heap.add_extent(self.next_extent, size)
        self.next_extent += size

    @rule(nbytes=st.integers(0, 3000))
    def allocate(self, nbytes: int) -> None:
        found = self.heap.allocate(nbytes)
        if found is None:
            assert not any(size >= block_bytes(nbytes) for size in self.free_runs()), "refused although it fits"
            return
        offset = found[0]
        self.generation += 1
        self.headers.create(offset, nbytes, self.generation, self.generation.to_bytes(28, "little"))
        self.headers.set_state(offset, self.generation, SEALED)
        self.heap.sealed(offset)
        assert offset not in self.live
        self.live[offset] = nbytes, self.generation

    def free_runs(self) -> list[int]:
        """Sizes of what is free and contiguous, extent by extent."""
        runs = []
        for extent in self.heap.extents.values():
            run = 0
            for block in self.headers.walk(extent.offset, extent.size):
                run = run + block.size if block.state == FREE else 0
                runs.append(run)
        return runs

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.live)))
        del self.live[offset]
        assert self.heap.free(offset)
        assert not self.heap.free(offset), "freed twice"

    @rule(nbytes=st.integers(0, 4096))
    def surrender(self, nbytes: int) -> None:
        for extent in self.heap.surrender(nbytes):
            for block in self.headers.walk(extent.offset, extent.size):
                assert (block.state == SEALED) == (block.offset in self.live)
                self.live.pop(block.offset, None)

    @invariant()
    def agrees(self) -> None:
        self.heap.check()
        assert set(self.heap.used) == set(self.live)
        for offset, (nbytes, generation) in self.live.items():
            block = self.headers.read(offset)
            assert (block.state, block.nbytes, block.generation) == (SEALED, nbytes, generation)


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=60, stateful_step_count=40)
TestHeap = HeapMachine.TestCase
TestHeap.settings = settings(max_examples=60, stateful_step_count=40)
