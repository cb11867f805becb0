"""The cluster simulator over many seeds: ``python -m fuzz.sim_cluster --seeds 0:100000 --seconds 600``.

Prints each failing seed and the command that replays it with a trace of every delivered message.  A seed that found a
bug goes into fuzz/seeds/cluster.txt, which the default tests replay.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from zray import codec
from zray.sim.cluster import SimCluster
from zray.transport import envelope

SEEDS = Path(__file__).parent / "seeds" / "cluster.txt"


def past_failures() -> list[int]:
    """Seeds that failed once."""
    lines = (line.split("#")[0].split() for line in SEEDS.read_text(encoding="utf-8").splitlines())
    return [int(words[0]) for words in lines if words]


def run(seed: int, *, trace: bool = False) -> SimCluster:
    """One schedule; raises what it finds."""
    cluster = SimCluster(seed)
    if trace:
        _trace(cluster)
    cluster.run()
    return cluster


def _trace(cluster: SimCluster) -> None:
    record = cluster.net.trace

    def trace(*event: Any) -> None:
        record(*event)
        if event[0] != "deliver":
            print(f"{cluster.net.now:9.5f} {event}")
            return
        _, source, target, _, (_, frame) = event
        flags, *_, sequence, ack, _ = envelope.parse(frame)
        messages = codec.decode(frame[envelope.SIZE:]) if not flags else [(0, f"flags {flags}")]
        for _, message in messages:
            print(f"{cluster.net.now:9.5f} {source!r} -> {target!r} {sequence & 0xFFFFFF}/{ack & 0xFFFFFF} {message}")

    cluster.net.trace = trace  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:1000", help="first:last, the last not included")
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after this long")
    parser.add_argument("--trace", action="store_true", help="print every delivered message")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split(":"))
    end = time.monotonic() + arguments.seconds
    failed = []
    seed = first
    for seed in range(first, last):
        if time.monotonic() >= end:
            break
        try:
            run(seed, trace=arguments.trace)
        except Exception as error:
            failed.append(seed)
            if arguments.trace:
                traceback.print_exc()
            print(f"seed {seed}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
                  f"  replay: python -m fuzz.sim_cluster --seeds {seed}:{seed + 1} --trace", flush=True)
    print(f"seeds {first} to {seed}: {len(failed)} failed {failed[:50]}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
