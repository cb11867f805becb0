"""What failures of nodes cost: throughput over time, and how much work is done again.

    python -m benchmarks.recovery actors [--actors 2000] [--nodes 10] [--lose 2] [--every 100] [--figures docs/figures]
    python -m benchmarks.recovery tasks [--nodes 6] [--lose 2] [--seconds 40] [--figures docs/figures]

The two experiments are those of the Ray paper (Moritz et al., OSDI 2018, section 5.1, figure 11), on one machine:

    actors   daemons are killed while every actor is called all the time.  Their actors move with their state: from the
             last checkpoint, or without checkpoints by running all their calls again.
    tasks    chains of tasks that pass arrays on, while daemons are killed and others join.  Tasks whose results were
             lost run again.

A call or task counts as run again when its number was run before.  Every result is compared with the sequential one.
"""

from __future__ import annotations

import argparse
import os
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

import zray
from benchmarks.plot import Line, plot
from benchmarks.report import write_json
from zray.cluster_utils import Cluster

BUCKET_S = 0.5  # of throughput
SOON_S = 0.5  # two results may take that long before the driver looks at the time again
STEP_BYTES = 200_000  # of the array that a task passes on: it lies in a store
NEVER = 10**9  # calls until a checkpoint, for actors without
RECORD = "<qd"  # number of a task, time of its end


class Rate:
    """Events a second over time, and moments worth a mark."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.counts: Counter[int] = Counter()

    def now(self) -> float:
        return time.perf_counter() - self.start

    def count(self, events: int = 1) -> None:
        self.counts[int(self.now() / BUCKET_S)] += events

    def line(self) -> list[tuple[float, float]]:
        return rates(self.counts)


def rates(counts: Counter[int]) -> list[tuple[float, float]]:
    """``(seconds, events a second)`` of whole buckets."""
    return [(bucket * BUCKET_S, counts[bucket] / BUCKET_S) for bucket in range(max(counts, default=0))]


# ---------------------------------------------------------------- actors


class Total:
    """Its state is the number of its calls.  ``first``: the number of the first call that this process has run."""

    first = 0  # of the class: no part of the state

    def __init__(self) -> None:
        self.total = 0

    def add(self) -> int:
        self.total += 1
        Total.first = Total.first or self.total
        return self.total

    def life(self) -> tuple[int, int]:
        return os.getpid(), Total.first


class Crowd:
    """Actors that are called all the time, one call each."""

    def __init__(self, count: int, every: int):
        options = {"num_cpus": 0, "resources": {"slot": 1}, "max_restarts": -1, "checkpoint_interval": every}
        kind = zray.remote(**options)(Total)
        self.actors = [kind.options(scheduling_strategy="SPREAD").remote() for _ in range(count)]
        self.pids = [pid for pid, _ in self.lives()]
        self.calls = [0] * count
        self.silent: set[int] = set()  # those that have not answered since the kill
        self.waiting = {actor.add.remote(): number for number, actor in enumerate(self.actors)}

    def lives(self) -> list[tuple[int, int]]:
        """The process of each, and the first call that it has run."""
        return zray.get([actor.life.remote() for actor in self.actors])

    def collect(self, again: bool) -> int:
        """Take replies, as they come; the number of them.  ``again``: call these actors again."""
        ready, _ = zray.wait(list(self.waiting), num_returns=max(1, len(self.waiting) // 8), timeout=SOON_S)
        for ref, value in zip(ready, zray.get(ready), strict=True):
            number = self.waiting.pop(ref)
            self.calls[number] += 1
            assert value == self.calls[number], f"an actor has counted {value} of {self.calls[number]} calls"
            self.silent.discard(number)
            if again:
                self.waiting[self.actors[number].add.remote()] = number
        return len(ready)

    def run_again(self, answered: list[int]) -> list[int]:
        """How many of the calls that were ``answered`` at the kill each actor that has moved since ran again."""
        return [max(0, before - first + 1) for before, pid, (now, first) in zip(
            answered, self.pids, self.lives(), strict=True) if now != pid]


def actors(options: argparse.Namespace, every: int) -> dict[str, Any]:
    """One run; ``every``: calls between two checkpoints of an actor."""
    room = -(-options.actors // (options.nodes - options.lose))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = cluster.add_nodes([{"num_cpus": 1, "resources": {"slot": room}}] * options.nodes)
        zray.init(address=cluster.address, logging_level="ERROR")
        crowd = Crowd(options.actors, every)
        rate, killed_at, whole_at = Rate(), 0.0, 0.0
        answered: list[int] = []
        while rate.now() < options.seconds or crowd.silent:
            if not killed_at and rate.now() >= options.seconds / 3:
                killed_at, answered, crowd.silent = rate.now(), list(crowd.calls), set(range(options.actors))
                for node in nodes[-options.lose:]:
                    node.kill()
            rate.count(crowd.collect(again=True))
            if killed_at and not crowd.silent and not whole_at:
                whole_at = rate.now()
        while crowd.waiting:
            crowd.collect(again=False)
        again = crowd.run_again(answered)
        return {"checkpoint every": every, "actors": options.actors, "moved": len(again), "calls": sum(crowd.calls),
                "answered at the kill": sum(answered), "run again": sum(again), "killed at": killed_at,
                "all answer after": whole_at - killed_at, "line": rate.line()}
    finally:
        zray.shutdown()
        cluster.shutdown()


# ---------------------------------------------------------------- tasks


@zray.remote(max_retries=-1)
def step(number: int, ran: str, seconds: float, before: np.ndarray | None = None) -> np.ndarray:
    """Pass an array on, with one more number added to its first element; note in the file ``ran`` that it has run."""
    time.sleep(seconds)
    out = np.zeros(STEP_BYTES // 8) if before is None else before.copy()
    out[0] += number
    file = os.open(ran, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, struct.pack(RECORD, number, time.monotonic()))
    finally:
        os.close(file)
    return out


def chain(start: int, length: int, ran: str, seconds: float) -> Any:
    """The last reference of a chain of tasks with the numbers from ``start`` on."""
    ref = step.remote(start, ran, seconds)
    for number in range(start + 1, start + length):
        ref = step.remote(number, ran, seconds, ref)
    return ref


def tasks(options: argparse.Namespace) -> dict[str, Any]:
    """One run: nodes are killed after a quarter of the time, and as many join after half of it."""
    node = {"num_cpus": options.cpus}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = cluster.add_nodes([node] * options.nodes)
        zray.init(address=cluster.address, logging_level="ERROR")
        with tempfile.NamedTemporaryFile(prefix="zray-recovery-") as ran:
            start, events = time.monotonic(), {}
            made, length = 0, options.length
            waiting: dict[Any, int] = {}
            width = options.nodes * options.cpus * 3 // 2
            while time.monotonic() - start < options.seconds or waiting:
                elapsed = time.monotonic() - start
                if "killed" not in events and elapsed >= options.seconds / 4:
                    events["killed"] = elapsed
                    for victim in nodes[-options.lose:]:
                        victim.kill()
                if "joined" not in events and elapsed >= options.seconds / 2:
                    events["joined"] = elapsed
                    cluster.add_nodes([node] * options.lose)
                while len(waiting) < width and elapsed < options.seconds:
                    waiting[chain(made * length, length, ran.name, options.task_ms / 1000)] = made
                    made += 1
                ready, _ = zray.wait(list(waiting), timeout=SOON_S)
                for ref in ready:
                    first = waiting.pop(ref) * length
                    value, right = zray.get(ref)[0], sum(range(first, first + length))
                    assert value == right, f"a chain gave {value}, not {right}"
            once, again = executions(struct.iter_unpack(RECORD, ran.read()), start)
        return {"tasks": made * length, "run again": sum(again.values()), **events,
                "first": rates(once), "again": rates(again)}
    finally:
        zray.shutdown()
        cluster.shutdown()


def executions(records: Iterable[tuple[int, float]], start: float) -> tuple[Counter[int], Counter[int]]:
    """Ends of tasks by bucket of time: of those that ran for the first time, and of those that ran again."""
    known: set[int] = set()
    once: Counter[int] = Counter()
    again: Counter[int] = Counter()
    for number, at in records:
        (again if number in known else once)[int((at - start) / BUCKET_S)] += 1
        known.add(number)
    return once, again


# ---------------------------------------------------------------- the command


def shown(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value:,}"
                     for name, value in found.items() if not isinstance(value, list))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("actors", "tasks"))
    parser.add_argument("--actors", type=int, default=2000)
    parser.add_argument("--nodes", type=int, default=10, help="daemons that have the actors, or run the tasks")
    parser.add_argument("--lose", type=int, default=2, help="daemons that are killed")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=int, default=100, help="calls between two checkpoints of an actor")
    parser.add_argument("--cpus", type=int, default=4, help="of each node that runs tasks")
    parser.add_argument("--length", type=int, default=20, help="tasks of a chain")
    parser.add_argument("--task-ms", type=float, default=20)
    parser.add_argument("--figures", default="docs/figures")
    parser.add_argument("--json", default="benchmarks/results/recovery-{part}.json")
    options = parser.parse_args()
    if not 0 < options.lose < options.nodes:
        parser.error("--lose must be at least 1, and less than --nodes")
    lines: list[Line]
    if options.part == "actors":
        runs = [actors(options, every) for every in (options.every, NEVER)]
        names = [f"checkpoint each {options.every} calls", "no checkpoint"]
        lines = [(name, run["line"]) for name, run in zip(names, runs, strict=True)]
        title = (f"{options.actors:,} actors on {options.nodes} nodes; {options.lose} nodes are killed "
                 f"after {options.seconds / 3:g} s")
        what = "calls a second"
    else:
        runs = [tasks(options)]
        lines = [("run for the first time", runs[0]["first"]), ("run again", runs[0]["again"])]
        title = (f"Tasks on {options.nodes} nodes; {options.lose} are killed after {options.seconds / 4:g} s, "
                 f"{options.lose} join after {options.seconds / 2:g} s")
        what = "tasks a second"
    for run in runs:
        print(shown(run))
    plot(f"{options.figures}/recovery-{options.part}.svg", title, "seconds", what, lines)
    write_json(options.json.format(part=options.part), {"runs": runs})


if __name__ == "__main__":
    main()
