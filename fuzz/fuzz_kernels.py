"""Random clusters against the scheduling kernels: compiled, plain and the oracle must agree, for as long as you like.

    python -m fuzz.fuzz_kernels --seconds 60
"""

from __future__ import annotations

from functools import partial
from random import Random

from fuzz.command import by_seed
from tests.oracles import sched_naive as naive
from zray.sched.kernels.loading import Kernels

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


def one(forms: list[Kernels], seed: int) -> None:
    """AssertionError when they disagree for this seed."""
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
        assert list(map(int, out))[: len(prefix)] == want[: len(classes)], (
            f"place_batch, compiled={form.compiled}, is not what the policy says")
        where = form.vector([0] * len(demands))
        done = form.pack_bundles(*made, strategy, where)
        row = form.pick_spread(made[0], free, made[2], made[3][0], seed % len(total))
        seen.append((int(placed), list(map(int, out)), int(done), list(map(int, where)), int(row),
                     [list(map(int, values)) for values in free]))
    assert all(outcome == seen[0] for outcome in seen), "compiled and plain disagree"


if __name__ == "__main__":
    raise SystemExit(by_seed(partial(one, [Kernels.plain(), Kernels.load()]), __doc__))
