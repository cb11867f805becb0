"""Workers killed at random points under load: every task ends, with the right value or its documented error.

The load mixes short tasks, tasks with large results, nested tasks, chains, and calls of restarting actors.  A seeded
thread kills a random worker every few milliseconds.  Tasks with ``max_retries=-1`` must all succeed; those with a bound
may also end in WorkerCrashedError (or, for a value that died with its worker, ObjectLostError), actor calls in
RayActorError.  A result that is wrong, another error, or a wait longer than the deadline fails the run.

    python -m fuzz.kill_workers --kills 1000 --seed 1
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

import zray as ray
from benchmarks.proc import descendants, name_of
from fuzz.command import with_options
from zray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

DEADLINE_S = 120.0
BATCH = 60
DOCUMENTED = {"task": (WorkerCrashedError, ObjectLostError), "actor": (RayActorError,), "sure": ()}


@ray.remote
def short(x: int) -> tuple[int, int]:
    return os.getpid(), x


@ray.remote
def busy(x: int) -> tuple[int, int]:
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass
    return os.getpid(), x


@ray.remote
def large(x: int) -> np.ndarray:
    return np.full(30_000, x)


@ray.remote
def total(array: np.ndarray) -> int:
    return int(array[0]) * len(array)


@ray.remote
def nested(x: int) -> int:
    return sum(ray.get([total.options(max_retries=-1).remote(np.full(10, x + i)) for i in range(3)]))


@ray.remote(max_restarts=-1, max_task_retries=0)
class Echo:
    def echo(self, x: int) -> tuple[int, int]:
        return os.getpid(), x


class Killer(threading.Thread):
    """Kills a random worker of this session every few milliseconds, until ``kills`` have died."""

    def __init__(self, rng: random.Random, kills: int):
        super().__init__(name="killer", daemon=True)
        self.rng, self.kills = rng, kills
        self.killed = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while self.killed < self.kills and not self.stopped.wait(self.rng.uniform(0.002, 0.03)):
            workers = sorted(pid for pid, _ in descendants(os.getpid()) if name_of(pid) == "zray-worker")
            if not workers:
                continue
            try:
                os.kill(self.rng.choice(workers), signal.SIGKILL)
                self.killed += 1
            except ProcessLookupError:
                pass


def submit(rng: random.Random, actors: list) -> list[tuple[str, Any, Any]]:
    """(kind, reference, value that it must have) for a batch of mixed work."""
    batch = []
    for _ in range(BATCH):
        x = rng.randrange(1000)
        retries = rng.choice([-1, 3])
        kind = "sure" if retries == -1 else "task"
        shape = rng.randrange(6)
        if shape == 0:
            batch.append((kind, short.options(max_retries=retries).remote(x), x))
        elif shape == 1:
            batch.append((kind, busy.options(max_retries=retries).remote(x), x))
        elif shape == 2:
            batch.append(("task", total.options(max_retries=retries).remote(large.remote(x)), 30_000 * x))
        elif shape == 3:
            batch.append(("task", nested.options(max_retries=retries).remote(x), 30 * x + 30))
        elif shape == 4:
            batch.append(("actor", rng.choice(actors).echo.remote(x), x))
        else:
            ref: Any = x
            for _ in range(4):
                ref = second.options(max_retries=-1).remote(ref)
            batch.append(("sure", ref, x))
    return batch


@ray.remote
def second(x: Any) -> Any:
    return x


def outcome(kind: str, ref: Any, expected: Any) -> str:
    """"value" or the name of a documented error; AssertionError for anything else."""
    try:
        value = ray.get(ref, timeout=DEADLINE_S)
    except DOCUMENTED[kind] as error:
        return type(error).__name__
    except RayTaskError as error:
        if isinstance(error.cause, DOCUMENTED[kind]):
            return f"caused by {type(error.cause).__name__}"
        raise AssertionError(f"{kind} task ended in {error!r}") from error
    value = value[1] if isinstance(value, tuple) else value
    assert value == expected, f"{kind} task returned {value}, not {expected}"
    return "value"


def main(kills: int = 1000, seed: int = 1, cpus: int = 4) -> int:
    """Load until ``kills`` workers were killed; AssertionError on any undocumented end, TimeoutError on a hang."""
    rng = random.Random(seed)
    ray.init(num_cpus=cpus)
    seen: Counter[str] = Counter()
    start = time.monotonic()
    try:
        actors = [Echo.remote() for _ in range(2)]
        killer = Killer(random.Random(seed + 1), kills)
        killer.start()
        try:
            while killer.is_alive():
                seen.update(outcome(*entry) for entry in submit(rng, actors))
        finally:
            killer.stopped.set()
            killer.join()
        assert ray.get([short.remote(i) for i in range(100)], timeout=DEADLINE_S)[-1][1] == 99
    finally:
        ray.shutdown()
    spent = time.monotonic() - start
    ends = dict(seen.most_common())
    print(f"seed {seed}: {killer.killed} workers killed, {seen.total()} tasks in {spent:.1f} s: {ends}")
    return 0


if __name__ == "__main__":
    raise SystemExit(with_options(main, __doc__))
