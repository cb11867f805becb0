"""Random clusters against the scheduling kernels: compiled, plain and the oracle must agree, for as long as you like.

    python fuzz/fuzz_kernels.py [--seconds 60] [--seed 0]

Prints the seed of the first disagreement and exits 1.  FAILED keeps the seeds of past ones; they run first.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import chain
from itertools import count as itertools_count
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "oracles"))

import sched_naive as naive  # noqa: E402

from zray.sched.loading import Kernels  # noqa: E402

FAILED: tuple[int, ...] = ()
SCALES = (1, 2_500, 10_000, 2**40, 2**58)


def cluster(random: Random):
    rows, columns = random.randint(1, random.choice((4, 40, 300))), random.randint(1, 8)
    scale = [random.choice(SCALES) for _ in range(columns)]
    total = [[random.randint(0, 4) * unit for unit in scale] for _ in range(rows)]
    available = [[random.randint(0, 8) * value // 8 for value in row] for row in total]
    allowed = [int(random.random() < 0.9) for _ in range(rows)]
    demands = [[random.choice((0, 0, 1, 2)) * unit // random.choice((1, 2, 8)) for unit in scale]
               for _ in range(random.randint(1, 6))]
    return total, available, allowed, demands


def one(seed: int, forms: list[Kernels]) -> str:
    """What disagrees for this seed, '' when nothing does."""
    random = Random(seed)
    total, available, allowed, demands = cluster(random)
    gpu, limit = random.randint(-1, len(total[0]) - 1), random.choice((0, 300_000, 500_000, 1_000_001))
    classes = [random.randrange(len(demands)) for _ in range(random.choice((0, 5, 50, 400)))]
    if random.random() < 0.5:
        classes.sort()
    # The oracle is slow: it follows a prefix, the twin all.
    prefix = classes[: max(1, 3_000 // len(total))]
    want, _ = naive.batch(total, available, allowed, demands, prefix, limit, gpu)
    strategy, seen = random.randrange(4), []
    for form in forms:
        free, out = form.matrix(available, len(total[0])), form.vector([0] * len(classes))
        made = form.matrix(total, len(total[0])), free, form.vector(allowed), form.matrix(demands, len(total[0]))
        placed = form.place_batch(*made, form.vector(classes), limit, gpu, out)
        if list(map(int, out))[: len(prefix)] != want[: len(classes)]:
            return f"place_batch, compiled={form.compiled}, is not what the policy says"
        where = form.vector([0] * len(demands))
        done = form.pack_bundles(*made, strategy, where)
        row = form.pick_spread(made[0], free, made[2], made[3][0], seed % len(total))
        seen.append((int(placed), list(map(int, out)), int(done), list(map(int, where)), int(row),
                     [list(map(int, values)) for values in free]))
    return "" if all(outcome == seen[0] for outcome in seen) else "compiled and plain disagree"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    forms = [Kernels.plain(), Kernels.load()]
    end, count = time.monotonic() + options.seconds, 0
    for current in chain(FAILED, itertools_count(options.seed)):
        if current not in FAILED and time.monotonic() >= end:
            break
        problem, count = one(current, forms), count + 1
        if problem:
            print(f"seed {current}: {problem}")
            return 1
    print(f"{count} clusters, no disagreement (from seed {options.seed})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
