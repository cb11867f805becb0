"""SIGINTs at random points of a driver at work: its state stays consistent and the driver stays usable.

A seeded thread sends SIGINT to this process; the main thread submits, gets, waits, puts and drops references, and
catches KeyboardInterrupt.  After every interrupt the runtime's ``check()`` must hold, and what is submitted must still
give the right values.

    python -m fuzz.sigint --count 10000 --seed 1
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import zray as ray
from fuzz.command import with_options
from zray.handles.connection import current


@ray.remote
def value(x: int) -> int:
    return x


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n


class Interrupter(threading.Thread):
    """SIGINT to this process while ``armed``; one at a time: the next comes when the last one was seen."""

    def __init__(self, rng: random.Random):
        super().__init__(name="interrupter", daemon=True)
        self.rng = rng
        self.armed = threading.Event()
        self.stopped = False

    def run(self) -> None:
        while True:
            self.armed.wait()
            if self.stopped:
                return
            time.sleep(self.rng.uniform(0, 0.003))
            if self.armed.is_set():
                self.armed.clear()
                os.kill(os.getpid(), signal.SIGINT)

    def stop(self) -> None:
        self.stopped = True
        self.armed.set()
        self.join()


def work(rng: random.Random, counter) -> None:
    """One random piece of driver work, checked."""
    kind = rng.randrange(5)
    if kind == 0:
        values = [rng.randrange(1000) for _ in range(20)]
        assert ray.get([value.remote(x) for x in values]) == values
    elif kind == 1:
        refs = [value.remote(i) for i in range(10)]
        while refs:
            _, refs = ray.wait(refs)
    elif kind == 2:
        block = os.urandom(rng.choice([10, 1000, 200_000]))
        assert ray.get(ray.put(block)) == block
    elif kind == 3:
        numbers = ray.get([counter.add.remote() for _ in range(10)])
        assert numbers == sorted(numbers)
    else:
        ray.cancel(value.remote(1))


def main(count: int = 10_000, seed: int = 1) -> int:
    """``count`` interrupts; AssertionError when an invariant or a value is broken."""
    rng = random.Random(seed)
    ray.init(num_cpus=2)
    runtime = current()
    interrupter = Interrupter(random.Random(seed + 1))
    start, seen = time.monotonic(), 0
    try:
        counter = Counter.remote()
        ray.get(counter.add.remote())
        interrupter.start()
        while seen < count:
            try:
                interrupter.armed.set()
                while True:
                    work(rng, counter)
            except KeyboardInterrupt:
                seen += 1
                runtime.check()
        interrupter.stop()
        assert ray.get([value.remote(i) for i in range(1000)], timeout=60) == list(range(1000))
        runtime.check()
    finally:
        ray.shutdown()
    print(f"seed {seed}: {seen} interrupts in {time.monotonic() - start:.1f} s, every check held")
    return 0


if __name__ == "__main__":
    raise SystemExit(with_options(main, __doc__))
