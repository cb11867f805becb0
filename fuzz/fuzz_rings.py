"""Two processes and a pair of rings: every frame compared byte by byte, then kill -9 of the writer at random points.

A child writes frames of a seeded generator.  The parent makes the same frames and compares.  With ``--kills`` the child
is killed after a random number of frames, again and again: those that have come must be the first ones, whole and in
order, and the end must show.

    python -m fuzz.fuzz_rings --messages 1000000 --kills 1000
"""

from __future__ import annotations

import os
import random
import select
import signal
import tempfile
import time
from collections.abc import Iterator

from fuzz.command import with_options
from zray.channels.duplex import Duplex, DuplexAnswer, DuplexOffer
from zray.channels.ring import NO_ROOM, RING_FRAME_BYTES_MAX, WRITTEN_FOR_A_SLEEPER

PATIENCE_S = 60.0
KILLED_AFTER_MAX = 3000


def frames(seed: int) -> Iterator[bytes]:
    """Frames without end, of lengths up to the largest."""
    rng = random.Random(seed)
    noise = rng.randbytes(1 << 16)
    number = 0
    while True:
        size = rng.choice((0, 1, 7, 8, 9, 100, RING_FRAME_BYTES_MAX, rng.randrange(RING_FRAME_BYTES_MAX)))
        start = rng.randrange(len(noise) - size)
        yield (number.to_bytes(8, "little") + noise[start:start + size])[:RING_FRAME_BYTES_MAX]
        number += 1


def write(path: str, seed: int, count: int) -> None:
    """The child: ``count`` frames, -1 for ever."""
    answer = DuplexAnswer(path)
    select.select([answer], [], [])
    duplex = answer.receive()
    for frame in frames(seed):
        if not count:
            break
        count -= 1
        while (done := duplex.writer.put(frame)) == NO_ROOM:
            os.sched_yield()
        if done == WRITTEN_FOR_A_SLEEPER:
            duplex.wake()
    while os.getppid() != 1 and select.select([duplex], [], [], 1.0) and duplex.woken():
        pass


def compare(duplex: Duplex, seed: int, child: int, kill_after: int) -> int:
    """Take frames until the other side has ended; returns how many."""
    expected, got, deadline = frames(seed), 0, time.monotonic() + PATIENCE_S
    ended = False
    while True:
        frame = duplex.reader.take()
        if frame is not None:
            assert frame == next(expected), f"seed {seed}: frame {got} is not what was written"
            got += 1
            if got == kill_after:
                os.kill(child, signal.SIGKILL)
        elif ended:
            return got
        elif duplex.reader.may_block():
            assert time.monotonic() < deadline, f"seed {seed}: nothing comes after frame {got}"
            if select.select([duplex], [], [], 1.0)[0]:
                ended = not duplex.woken()


def one(folder: str, seed: int, count: int, kill_after: int) -> int:
    """A pair of processes; returns the number of frames that came."""
    offer = DuplexOffer(os.path.join(folder, "c-fuzz.sock"))
    child = os.fork()
    if not child:
        try:
            write(offer.path, seed, count)
        finally:
            os._exit(0)
    try:
        select.select([offer], [], [], PATIENCE_S)
        duplex = offer.accept()
        offer.close()
        if count < 0:
            got = compare(duplex, seed, child, kill_after)
            assert got >= kill_after, f"seed {seed}: {got} frames came of {kill_after} that had been taken"
        else:
            got = 0
            expected = frames(seed)
            while got < count:
                frame = duplex.reader.take()
                if frame is not None:
                    assert frame == next(expected), f"seed {seed}: frame {got} is not what was written"
                    got += 1
                elif duplex.reader.may_block():
                    assert select.select([duplex], [], [], PATIENCE_S)[0], f"seed {seed}: nothing comes"
                    duplex.woken()
        duplex.close()
        return got
    finally:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(child, 0)


def run(messages: int = 100_000, kills: int = 100, seed: int = 1) -> None:
    """``messages`` frames without a failure, then so many kills."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        one(folder, rng.getrandbits(32), messages, 0)
        taken = sum(one(folder, rng.getrandbits(32), -1, rng.randrange(1, KILLED_AFTER_MAX)) for _ in range(kills))
        assert not os.listdir(folder), "a socket is left"
        print(f"{messages} frames compared, {kills} writers killed after {taken} frames in all, "
              f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    with_options(run, __doc__)
