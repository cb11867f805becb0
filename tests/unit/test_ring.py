"""The ring of zray.channels: against a queue, in interleavings of a memory with store buffers, and scribbled over."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings, strategies as st

from zray.channels import ring
from zray.channels.ring import (
    ASLEEP,
    CONSUMED,
    NO_ROOM,
    PUBLISHED,
    RING_BYTES,
    RING_FRAME_BYTES_MAX,
    RING_SLOTS,
    WRITTEN,
    WRITTEN_FOR_A_SLEEPER,
    RingBroken,
    RingReader,
    RingWriter,
)

GENERATION = 0x12345678


def both(generation=GENERATION):
    memory = bytearray(RING_BYTES)
    return RingWriter(memoryview(memory), generation), RingReader(memoryview(memory), generation), memory


# ---------------------------------------------------------------- against a queue

LONGEST = b"x" * RING_FRAME_BYTES_MAX
FRAMES = st.one_of(st.binary(max_size=40), st.just(LONGEST), st.just(LONGEST + b"x"))


@given(st.lists(st.one_of(FRAMES, st.none(), st.just("block")), max_size=120))
def test_a_ring_is_a_queue_of_bounded_length(steps):
    writer, reader, _ = both()
    queue, asleep = [], True
    for step in steps:
        if step is None:
            assert reader.take() == (queue.pop(0) if queue else None)
        elif step == "block":
            assert reader.may_block() == (not queue)
            asleep = True
        else:
            fits = len(queue) < RING_SLOTS and len(step) <= RING_FRAME_BYTES_MAX
            assert writer.put(step) == (NO_ROOM if not fits else WRITTEN_FOR_A_SLEEPER if asleep else WRITTEN)
            if fits:
                queue.append(step)
                asleep = False
    assert [reader.take() for _ in queue] == queue and reader.take() is None


# ---------------------------------------------------------------- a memory with store buffers

class Machine:
    """Two processors over one memory.  Each store waits in its processor's buffer; the schedule says what happens next.

    x86-64: stores leave a buffer in their order, a processor sees its own at once, a fence empties the buffer.
    """

    def __init__(self, schedule):
        self.memory = {}
        self.buffers = {"writer": [], "reader": []}
        self._schedule = schedule
        self._turn = threading.Condition()
        self._running = None
        self._left = ["writer", "reader"]

    def _flush_one(self, who):
        if self.buffers[who]:
            address, value = self.buffers[who].pop(0)
            self.memory[address] = value

    def step(self, who):
        """Before each access: other accesses and flushes, as the schedule has them."""
        with self._turn:
            self._running = None
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._running == who)

    def load(self, who, address):
        self.step(who)
        for known, value in reversed(self.buffers[who]):
            if known == address:
                return value
        return self.memory.get(address, 0)

    def store(self, who, address, value):
        self.step(who)
        self.buffers[who].append((address, value))

    def fence(self, who):
        self.step(who)
        while self.buffers[who]:
            self._flush_one(who)

    def ended(self, who):
        with self._turn:
            self._left.remove(who)
            self._running = None
            self._turn.notify_all()

    def run(self, **programs):
        def main(who, program):
            self.step(who)
            try:
                program()
            finally:
                self.ended(who)

        threads = [threading.Thread(target=main, args=item) for item in programs.items()]
        for thread in threads:
            thread.start()
        choices = iter(self._schedule)
        while True:
            with self._turn:
                assert self._turn.wait_for(lambda: self._running is None, 10)
                if not self._left:
                    break
                choice = next(choices, None)
                if choice in ("flush writer", "flush reader"):
                    self._flush_one(choice.split()[1])
                    continue
                self._running = choice if choice in self._left else self._left[0]
                self._turn.notify_all()
        for thread in threads:
            thread.join()
        for who in self.buffers:
            while self.buffers[who]:
                self._flush_one(who)


class Words:
    """``words`` of a side, in that machine; ``bytes`` too: a frame is one store here."""

    def __init__(self, machine, who):
        self.machine, self.who = machine, who

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.machine.load(self.who, ("bytes", index.start)) or bytes(index.stop - index.start)
        return self.machine.load(self.who, index)

    def __setitem__(self, index, value):
        self.machine.store(self.who, ("bytes", index.start) if isinstance(index, slice) else index, value)


class Fence:
    def __init__(self, machine, who):
        self.machine, self.who = machine, who

    def __enter__(self):
        self.machine.fence(self.who)

    def __exit__(self, *error):
        return False


def side(kind, machine, who, fences=True):
    made = kind.__new__(kind)
    made.words = made.bytes = Words(machine, who)
    made.generation, made.count, made._keeps_order = GENERATION, 0, True
    made._fences = (Fence(machine, who),) if fences else ()
    return made


SCHEDULES = st.lists(st.sampled_from(["writer", "reader", "flush writer", "flush reader"]), max_size=120)


def blocks_for_ever(schedule, frames, fences=True):
    """Run a writer of so many frames against a reader that blocks when it finds none; what the reader got."""
    machine = Machine(schedule)
    writer, reader = side(RingWriter, machine, "writer", fences), side(RingReader, machine, "reader", fences)
    rung, got, blocked = [], [], []

    def write():
        for number in range(frames):
            if writer.put(b"%d" % number) == WRITTEN_FOR_A_SLEEPER:
                rung.append(number)

    def read():
        while len(got) < frames:
            frame = reader.take()
            if frame is not None:
                got.append(frame)
            elif reader.may_block():
                blocked.append(len(got))
                return

    machine.run(writer=write, reader=read)
    assert got == [b"%d" % number for number in range(len(got))]
    return bool(blocked) and len(got) < frames and not rung


@settings(deadline=None, max_examples=300)
@given(SCHEDULES, st.integers(1, 3))
def test_no_reader_blocks_while_its_writer_believes_it_awake(schedule, frames):
    assert not blocks_for_ever(schedule, frames)


def test_without_the_fences_a_wake_up_is_lost():
    """The schedule that the fences are for: both stores wait in their buffers while both sides load."""
    writer_stores = ["writer"] * 7  # into the loads of ASLEEP, nothing flushed
    schedule = ["reader"] * 3 + writer_stores + ["reader"] * 3 + ["writer"] * 3 + ["reader"] * 3
    assert blocks_for_ever(schedule, 1, fences=False)
    assert not blocks_for_ever(schedule, 1)


# ---------------------------------------------------------------- nothing of the other side is trusted

@pytest.mark.parametrize("word, value", [
    (PUBLISHED, RING_SLOTS + 1), (PUBLISHED, 2**63), (48, 0), (48, (GENERATION << 32) | 99999)])
def test_a_reader_finds_that_its_ring_is_scribbled_over(word, value):
    writer, reader, memory = both()
    writer.put(b"frame")
    memoryview(memory).cast("Q")[word] = value
    with pytest.raises(RingBroken):
        reader.take()


def test_a_frame_of_another_ring_or_round_is_refused():
    writer, reader, memory = both()
    for _ in range(RING_SLOTS):
        writer.put(b"a")
        reader.take()
    words = memoryview(memory).cast("Q")
    words[PUBLISHED] = RING_SLOTS + 1  # the slot still has the frame of the round before
    with pytest.raises(RingBroken):
        reader.take()
    writer, _, memory = both()
    writer.put(b"a")
    with pytest.raises(RingBroken):
        RingReader(memoryview(memory), GENERATION + 1).take()


def test_a_writer_finds_that_its_reader_counts_what_was_never_written():
    writer, _, memory = both()
    memoryview(memory).cast("Q")[CONSUMED] = 5
    with pytest.raises(RingBroken):
        writer.put(b"x")


@given(st.binary(min_size=64, max_size=64), st.integers(0, RING_BYTES // 64 - 1))
def test_no_scribble_is_more_than_an_error_of_the_ring(noise, line):
    writer, reader, memory = both()
    writer.put(b"one")
    memory[line * 64:line * 64 + 64] = noise
    for _ in range(RING_SLOTS + 2):
        try:
            if reader.take() is None:
                break
        except RingBroken:
            break
    try:
        writer.put(b"two")
    except RingBroken:
        pass


def test_a_closed_side_is_noticed_by_a_thread_that_looks_at_it():
    _, reader, _ = both()
    reader.close()
    with pytest.raises(ValueError, match="released"):
        reader.words[ASLEEP]


def test_arm64_gets_two_locks(monkeypatch):
    monkeypatch.setattr(ring.platform, "machine", lambda: "aarch64")
    assert len(both()[0]._fences) == 2


# ---------------------------------------------------------------- processors that move stores and loads

def test_where_stores_and_loads_are_moved_fences_hold_a_frame_between_its_counts(monkeypatch):
    monkeypatch.setattr(ring.platform, "machine", lambda: "aarch64")
    writer, reader, memory = both()
    words, steps = memoryview(memory).cast("Q"), []
    for side in (writer, reader):
        monkeypatch.setattr(side, "_fence", lambda: steps.append(
            (words[PUBLISHED], b"a frame" in memory, words[CONSUMED])))
    writer.put(b"a frame")
    assert steps == [(0, True, 0)], "the frame is there, and not counted yet"
    steps.clear()
    assert reader.take() == b"a frame"
    assert steps == [(1, True, 0)] * 2, "before and after the copy, and before the slot counts as free"
    words.release()
