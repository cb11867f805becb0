"""Chains of tasks that take each other's results, as a driver submits them: what zray.owner.followers is for.

Most links take no time and have one function, so that they are run ahead.  Some fail, are retried, end their process,
return references or several values, take long, or are cancelled, so that the links behind them must wait after all.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Protocol

from zray.owner.records import Task
from zray.sim import programs

LINKS_MAX = 24
SHAPES = ("line", "line", "braid", "tree", "fan", "mixed")
ODD_KINDS = ("raise", "flaky", "flaky", "crash", "give", "give", "many", "keep", "chain")


class _Driver(Protocol):
    around: Any
    refs_held: list[Any]

    def submit(self, program: list[Any], deps: list[Any], *, retries: int, strategy: dict[str, Any], measured: str
               ) -> list[Any]: ...
    def cancel(self, ref: Any, *, force: bool, recursive: bool) -> None: ...
    def later(self, seconds: float, action: Any, *args: Any) -> None: ...


def chain(driver: _Driver, random: Random) -> Iterator[Any]:
    """Submit a chain, with pauses; the driver keeps some of the results, and drops the others."""
    plan = driver.around.plan
    shape, odd = random.choice(SHAPES), random.choice((0.0, 0.0, 0.1, 0.3))
    pause, slow = random.choice((0.0, 0.0, 0.1, 0.5)), random.choice((0.0, 0.0, 0.1))
    cancels = 0.1 * (plan.cancels and random.random() < 0.7)
    retries = random.choice((0, 3, 3, 3, -1))
    strategy: dict[str, Any] = random.choice(({}, {}, {}, {"kind": "spread"}))
    made: list[Any] = []  # in order; a link takes some of the last
    for number in range(random.randint(2, LINKS_MAX)):
        program = _program(random, odd, random.uniform(0.0, plan.task_s_max) if random.random() < slow else
                           random.choice((0.0, 0.0, 0.0, 0.0003)))
        deps = _arguments(random, shape, made, number)
        returned = driver.submit(program, deps, retries=retries, strategy=strategy, measured=programs.LINK)
        if shape == "tree":
            for ref in deps:
                made.remove(ref)
                ref.drop()
        made += returned
        if random.random() < cancels:
            _cancel(driver, random, random.choice(made))
        if random.random() < pause:
            yield "sleep", random.choice((0.0, random.uniform(0.0, 0.0005), random.uniform(0.0, 0.01)))
        while len(made) > 6:
            made.pop(0).drop()
    if random.random() < 0.3:
        yield "wait", [made[-1].record]
    for ref in made[:-1]:
        if random.random() < 0.5:
            driver.refs_held.append(ref)
        else:
            ref.drop()
    driver.refs_held.append(made[-1])


def _program(random: Random, odd: float, seconds: float) -> list[Any]:
    x = random.randrange(1 << 16) * 16 + (random.randint(2, 15) if random.random() < 0.97 else 0)
    if random.random() >= odd:
        return ["value", x, seconds, []]
    kind = random.choice(ODD_KINDS)
    parts = {"flaky": [random.randint(1, 2)], "crash": [1], "give": [["value", x, 0.0, []]],
             "many": [random.randint(2, 3)], "chain": [random.randint(2, 12)]}
    return [kind, x, seconds, parts.get(kind, [])]


def _arguments(random: Random, shape: str, made: list[Any], number: int) -> list[Any]:
    if not made:
        return []
    if shape == "mixed":
        shape = random.choice(("line", "braid", "fan"))
    if shape == "line":
        return [made[-1]] * random.choice((1, 1, 1, 2))
    if shape == "braid":
        return random.sample(made[-3:], random.randint(1, len(made[-3:])))
    if shape == "fan":
        return [random.choice(made[-3:])]
    return made[-2:] if number % 3 == 2 and len(made) > 1 else []  # two leaves, or the roots of two trees


def _cancel(driver: _Driver, random: Random, ref: Any) -> None:
    force, again = random.random() < 0.3, ref.again()

    def cancel() -> None:
        task = again.record.task
        driver.around.oracle.happened["cancel"] += 1
        by_force = force and type(task) is Task
        driver.around.oracle.happened["crash"] += by_force
        driver.cancel(again, force=by_force, recursive=random.random() < 0.5)
        again.drop()

    driver.later(random.choice((0.0, 0.0005, 0.001, 0.003)), cancel)
