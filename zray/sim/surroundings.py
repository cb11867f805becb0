"""What every process of a simulated cluster asks of its surroundings; SimCluster makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from zray.base.config import Config
from zray.sim.mesh import Wire
from zray.sim.oracle import Oracle
from zray.sim.plan import Plan
from zray.sim.stores import SimStores


class Checked(Protocol):
    """A process that has taken a turn."""

    def check(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SimSurroundings:
    """The same for all processes.  Each kind of process adds its own ports in its own module."""

    seed: int
    plan: Plan
    config: Config
    python: str  # version that processes report
    wire: Wire
    oracle: Oracle
    stores: SimStores
    stepped: Callable[[Checked], None]  # after each turn
    error: Callable[[Exception], None]
