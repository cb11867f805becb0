"""The cluster simulator over many seeds: ``python -m fuzz.sim_cluster --seeds 0:10000 --jobs 2``.

Prints each failing seed and the command that replays it with a trace of every delivered message, goes on, and ends
with status 1 if there was any.  A seed that found a bug goes into fuzz/seeds/cluster.txt, which the default tests
replay.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from zray.sim.cluster import SimCluster
from zray.sim.plan import Plan
from zray.transport import envelope
from zray.wire import codec

SEEDS_A_PIECE = 25


def run(seed: int, plan: Plan | None = None, *, trace: bool = False) -> SimCluster:
    """One schedule; raises what it finds."""
    collects = gc.isenabled()
    gc.disable()  # a run is over before its garbage matters, and looking for it costs a tenth
    try:
        cluster = SimCluster(seed, plan)
        if trace:
            _trace(cluster)
        cluster.run()
    finally:
        if collects:
            gc.enable()
    return cluster


def twice(seed: int) -> None:
    """The same schedule two times; AssertionError when it is not the same."""
    first, second = run(seed).net.trace_hash(), run(seed).net.trace_hash()
    assert first == second, f"seed {seed} is not one schedule"


def failures(first: int, last: int, again: bool = False) -> list[tuple[int, str]]:
    """``(seed, first line of what it found)`` of those that fail."""
    found = []
    for seed in range(first, last):
        try:
            if again:
                twice(seed)
            else:
                run(seed)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = str(error).splitlines()[0][:300] if str(error) else ""
            found.append((seed, f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {text}"))
    gc.collect()  # a run leaves some 4 MB of cycles, and no collection while it lasts finds those of the one before
    return found


def _trace(cluster: SimCluster) -> None:
    net = cluster.net
    record, delivered = net.trace, net.trace_delivery

    def trace(*event: Any) -> None:
        record(*event)
        print(f"{net.now:9.5f} {event}")

    def delivery(source: bytes, target: bytes, item: Any) -> None:
        delivered(source, target, item)
        frame = item[1]
        flags, *_, sequence, ack, _ = envelope.parse(frame)
        messages = codec.decode(frame[envelope.SIZE:]) if not flags else [(0, f"flags {flags}")]
        for _, message in messages:
            print(f"{net.now:9.5f} {source!r} -> {target!r} {sequence & 0xFFFFFF}/{ack & 0xFFFFFF} {message}")

    net.trace = trace  # type: ignore[method-assign]
    net.trace_delivery = delivery  # type: ignore[method-assign]


def _pieces(first: int, last: int, again: bool, jobs: int, end: float) -> Iterator[list[tuple[int, str]]]:
    """Results of short runs of seeds, in order, until the time is over."""
    starts = range(first, last, SEEDS_A_PIECE)
    if jobs == 1:
        for start in starts:
            if time.monotonic() >= end:
                return
            yield failures(start, min(last, start + SEEDS_A_PIECE), again)
        return
    with ProcessPoolExecutor(jobs) as pool:
        piece = [pool.submit(failures, start, min(last, start + SEEDS_A_PIECE), again) for start in starts]
        for future in piece:
            if time.monotonic() >= end:
                pool.shutdown(cancel_futures=True)
                return
            yield future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:1000", help="first:last, the last not included")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--twice", action="store_true", help="run every seed twice: the traces must be the same")
    parser.add_argument("--trace", action="store_true", help="print every delivered message of the first seed")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split(":"))
    if arguments.trace:
        run(first, trace=True)
        return
    failed: list[int] = []
    began, done = time.monotonic(), first
    try:
        for found in _pieces(first, last, arguments.twice, arguments.jobs, began + arguments.seconds):
            done = min(last, done + SEEDS_A_PIECE)
            for seed, what in found:
                failed.append(seed)
                print(f"seed {seed}: {what}\n  replay: python -m fuzz.sim_cluster --seeds {seed}:{seed + 1} --trace",
                      flush=True)
    except KeyboardInterrupt:
        print("stopped")
    seconds = time.monotonic() - began
    print(f"seeds {first} to {done - 1} in {seconds:.0f} s ({(done - first) / seconds * 60:.0f} a minute): "
          f"{len(failed)} failed {failed[:50]}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
