"""One call at a time: its distribution, with pauses, two pairs at once, a chain of tasks; and what the machine allows.

    python -m benchmarks latency
    python -m benchmarks.latency            # the distributions, and docs/figures/latency.svg
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import select
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Row, cost_row, latencies, quantile, rate, rate_row

GROUP = "latency"
CPUS = 2
PAUSE_S = 1e-3
PAUSED = 1000
LINKS = 100  # the name of the row has it too
QUANTILES = (0.5, 0.9, 0.99, 0.999)


def rows(ray: Any, quick: bool = False) -> list[Row]:
    ray.init(num_cpus=CPUS)
    try:
        found = [distribution(name, ordered) for name, ordered in measured(ray)]
        return [*found, *_two_pairs(ray), *_chain(ray)]
    finally:
        ray.shutdown()


def distribution(name: str, ordered: list[float]) -> Row:
    """p50 in milliseconds, with the other quantiles beside it."""
    row = cost_row(GROUP, name, 1e3 * quantile(ordered, 0.5), "ms")
    row.update({f"p{100 * q:g}": 1e3 * quantile(ordered, q) for q in QUANTILES[1:]})
    return row


def measured(ray: Any) -> list[tuple[str, list[float]]]:
    """(name, sorted seconds) of each kind of call."""
    @ray.remote
    def nothing():
        return None

    @ray.remote(num_cpus=0)
    class Actor:
        def nothing(self):
            return None

    @ray.remote(num_cpus=0)
    class Async:
        async def nothing(self):
            return None

    actor, coroutines = Actor.remote(), Async.remote()
    return [
        ("actor call, one at a time", latencies(lambda: ray.get(actor.nothing.remote()))),
        ("actor call, after pauses of 1 ms", _paused(lambda: ray.get(actor.nothing.remote()))),
        ("task, one at a time", latencies(lambda: ray.get(nothing.remote()))),
        ("task, after pauses of 1 ms", _paused(lambda: ray.get(nothing.remote()))),
        ("call of an async actor, one at a time", latencies(lambda: ray.get(coroutines.nothing.remote()))),
    ]


def _paused(work: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(PAUSED):
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)


def _two_pairs(ray: Any) -> list[Row]:
    """Two callers with an actor each, at once: four processes on two cores."""
    @ray.remote(num_cpus=0)
    class Called:
        def nothing(self):
            return None

    @ray.remote(num_cpus=0)
    class Caller:
        def __init__(self, called):
            self.called = called

        def measure(self, count):
            return latencies(lambda: ray.get(self.called.nothing.remote()), count)

    callers = [Caller.remote(Called.remote()) for _ in range(2)]
    ray.get([caller.measure.remote(100) for caller in callers])
    both = ray.get([caller.measure.remote(2000) for caller in callers])
    return [distribution("actor call, two pairs at once", sorted(both[0] + both[1]))]


def _chain(ray: Any) -> list[Row]:
    @ray.remote
    def following(x):
        return x

    def chain() -> None:
        ref = following.remote(0)
        for _ in range(LINKS - 1):
            ref = following.remote(ref)
        ray.get(ref)

    return [rate_row(GROUP, "chain of 100 dependent tasks", rate(chain, LINKS))]


# ---------------------------------------------------------------- what the machine allows

def floor() -> list[float]:
    """Sorted seconds of a pickled call and its answer over a pair of rings, with nothing of zray above them."""
    from zray.channels.duplex import DuplexOffer
    from zray.channels.waiting import RingWait

    with tempfile.TemporaryDirectory() as folder:
        offer = DuplexOffer(os.path.join(folder, "c-floor.sock"))
        process = multiprocessing.get_context("spawn").Process(target=_answer, args=(offer.path,), daemon=True)
        process.start()
        select.select([offer], [], [])
        duplex = offer.accept()
        offer.close()
        wait = RingWait(1e-4, _Awake())

        def call() -> None:
            _say(duplex, pickle.dumps(("nothing", ()), 5))
            pickle.loads(_hear(duplex, wait))

        times = latencies(call, 10_000)
        duplex.close()
        process.join(5)
        process.kill()
    return times


class _Awake:
    woken = False


def _say(duplex: Any, frame: bytes) -> None:
    if duplex.writer.put(frame) == 2:
        duplex.wake()


def _hear(duplex: Any, wait: Any) -> bytes:
    while (frame := duplex.reader.take()) is None:
        if not wait.must_not_block((duplex.reader,), True):
            select.select([duplex], [], [])
            if not duplex.woken():
                raise EOFError
            wait.rung()
    return bytes(frame)


def _answer(path: str) -> None:
    from zray.channels.duplex import DuplexAnswer
    from zray.channels.waiting import RingWait

    answer = DuplexAnswer(path)
    select.select([answer], [], [])
    duplex, wait = answer.receive(), RingWait(1e-4, _Awake())
    try:
        while True:
            pickle.loads(_hear(duplex, wait))
            _say(duplex, pickle.dumps(None, 5))
    except (EOFError, OSError):
        pass


def main() -> int:
    """Print the distributions and draw them."""
    from benchmarks.plot import plot
    from benchmarks.report import table

    ray = importlib.import_module("zray")
    ray.init(num_cpus=CPUS)
    try:
        found = [*measured(ray), ("floor: a pickled call over two rings", floor())]
    finally:
        ray.shutdown()
    print(table(["us", *(f"p{100 * q:g}" for q in QUANTILES)],
                [[name, *(f"{1e6 * quantile(ordered, q):.0f}" for q in QUANTILES)] for name, ordered in found]))
    shares = [1 - 10 ** (-step / 10) for step in range(1, 31)]  # evenly spaced in nines: 50 %, 90 %, 99 %, 99.9 %
    lines = [(name, [(1e6 * quantile(ordered, share), 1 / (1 - share)) for share in shares])
             for name, ordered in found]
    plot("docs/figures/latency.svg", "One call at a time: one in so many takes longer", "us", "one in", lines, log=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
