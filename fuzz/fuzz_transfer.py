"""Transfers between simulated nodes, by seed: ``python -m fuzz.fuzz_transfer --seconds 60 [--seed N]``.

Each seed is one schedule of puts, reads, frees, deaths and silences (tests/sim/test_transfer_sim.py), the same every
time.  A failing seed is printed; add it to SEEDS_OF_PAST_FAILURES with a word on what it found.
"""

from __future__ import annotations

import argparse
import random
import time
import traceback

from tests.sim.test_transfer_sim import run_schedule

SEEDS_OF_PAST_FAILURES = (
    0,  # a copy whose primary was lost was announced over another's row, and nobody freed it
    187,  # the free of an object whose primary was lost took the block of a pull that was under way
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="run this seed alone")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    seeds = [options.seed] if options.seed is not None else list(SEEDS_OF_PAST_FAILURES)
    seed = random.SystemRandom().getrandbits(32)
    runs = 0
    while seeds or (options.seed is None and time.monotonic() < end):
        current = seeds.pop() if seeds else seed
        seed += 1
        runs += 1
        try:
            run_schedule(current)
        except Exception:  # the point of a fuzzer: report the seed of whatever went wrong
            traceback.print_exc()
            print(f"seed {current} failed")
            return 1
    print(f"{runs} seeds, no failure")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
