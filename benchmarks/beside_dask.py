"""Five small programs, written for zray and for Dask's distributed scheduler, on two worker processes each.

    python -m benchmarks.beside_dask zray
    python -m benchmarks.beside_dask dask        # in an environment with `distributed` and `psutil`

One run prints one JSON object.  Run the two in turn, several times: docs/benchmarks.md has a table.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

TASKS = 1000
CHAIN = 100
CALLS = 300


def one_more(x: int) -> int:
    return x + 1


class Counter:
    """Counts what it was given."""

    def __init__(self) -> None:
        self.n = 0

    def add(self, k: int) -> int:
        self.n += k
        return self.n


def p50_ms(call: Callable[[], Any]) -> float:
    """The median time of one call, in ms; the first calls are not counted."""
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[CALLS // 10:]) * 1e3


def rate(count: int, work: Callable[[], Any]) -> float:
    """``count`` over the least time of five rounds."""
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - began)
    return count / min(rounds)


def memory_mb() -> float:
    """Proportional set size of this process and all below it."""
    import psutil

    me = psutil.Process()
    return float(sum(process.memory_full_info().pss for process in [me, *me.children(recursive=True)])) / 1e6


def cpu_us(count: int, work: Callable[[], Any]) -> float:
    """Processor time of this process and all below it for one of ``count`` items, in us; the load changes it little."""
    import psutil

    me = psutil.Process()
    all_of_them = [me, *me.children(recursive=True)]

    def spent() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in all_of_them))

    before = spent()
    for _ in range(5):
        work()
    return (spent() - before) / count / 5 * 1e6


def on_zray() -> dict[str, float]:
    began = time.perf_counter()
    import zray

    zray.init("local", num_cpus=2)
    task = zray.remote(one_more)
    assert zray.get(task.remote(1)) == 2
    started = time.perf_counter() - began

    def many() -> None:
        zray.get([task.remote(i) for i in range(TASKS)])

    def chain() -> None:
        ref: Any = 0
        for _ in range(CHAIN):
            ref = task.remote(ref)
        assert zray.get(ref) == CHAIN

    counter: Any = zray.remote(Counter).remote()
    rows = {
        "init to first result, s": started,
        "memory with 2 workers, MB": memory_mb(),
        "task, one at a time, p50 ms": p50_ms(lambda: zray.get(task.remote(1))),
        "tasks/s, 1000 at a time": rate(TASKS, many),
        "processor time of one of these, us": cpu_us(TASKS, many),
        "tasks/s, chain of 100": rate(CHAIN, chain),
        "actor call, one at a time, p50 ms": p50_ms(lambda: zray.get(counter.add.remote(1))),
    }
    began = time.perf_counter()
    zray.shutdown()
    return {**rows, "shutdown, s": time.perf_counter() - began}


def on_dask() -> dict[str, float]:
    began = time.perf_counter()
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    client = Client(cluster)
    assert client.submit(one_more, 1, pure=False).result() == 2
    started = time.perf_counter() - began

    def many() -> None:
        client.gather(client.map(one_more, range(TASKS), pure=False))

    def chain() -> None:
        future: Any = 0
        for _ in range(CHAIN):
            future = client.submit(one_more, future, pure=False)
        assert future.result() == CHAIN

    counter = client.submit(Counter, actor=True).result()
    rows = {
        "init to first result, s": started,
        "memory with 2 workers, MB": memory_mb(),
        "task, one at a time, p50 ms": p50_ms(lambda: client.submit(one_more, 1, pure=False).result()),
        "tasks/s, 1000 at a time": rate(TASKS, many),
        "processor time of one of these, us": cpu_us(TASKS, many),
        "tasks/s, chain of 100": rate(CHAIN, chain),
        "actor call, one at a time, p50 ms": p50_ms(lambda: counter.add(1).result()),
    }
    began = time.perf_counter()
    client.close()
    cluster.close()
    return {**rows, "shutdown, s": time.perf_counter() - began}


if __name__ == "__main__":
    if sys.argv[1:] not in (["zray"], ["dask"]):
        sys.exit(__doc__)
    print(json.dumps({"zray": on_zray, "dask": on_dask}[sys.argv[1]]()))
