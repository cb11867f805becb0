"""What a schedule of the cluster simulator may contain."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from zray.sim.network import Faults

FAULTS_S = 0.6  # how long the first phase of a run lasts


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule may contain; drawn from the seed, so that seeds differ in kind and not only in detail."""

    drivers: int = 2
    cpus: int = 2
    steps: int = 12  # what each driver does
    depth: int = 2
    task_s_max: float = 0.01
    faults: Faults = Faults(0.00005, 0.0005, slow=0.02)
    kills: int = 0  # workers killed
    driver_deaths: int = 0
    cancels: bool = False
    actors: bool = True
    burst: int = 0  # tasks that each driver submits at once, and drains with wait

    @classmethod
    def random(cls, seed: int) -> Plan:
        random = Random(f"plan {seed}")
        faulty = random.random() < 0.6
        return cls(
            drivers=random.randint(1, 3), cpus=random.randint(1, 3), steps=random.randint(3, 12),
            depth=random.randint(0, 2), task_s_max=random.choice((0.0003, 0.01, 0.05)),
            faults=Faults(0.00005, random.choice((0.0003, 0.005)), slow=random.choice((0.03, 0.3)), drop=0.02 * faulty,
                          duplicate=0.05 * faulty),
            kills=random.choice((0, 0, 1, 3, 6)), driver_deaths=random.random() < 0.2, cancels=random.random() < 0.4,
            actors=random.random() < 0.7, burst=random.choice((0, 0, 0, 60, 200)))
