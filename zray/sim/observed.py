"""A whole simulated cluster for the parts that look at all of it: what is left, what waits, what may be hit."""

from __future__ import annotations

from typing import Protocol

from zray.sim.core import Core
from zray.sim.mesh import FrameNetwork, Wire
from zray.sim.node import SimNode
from zray.sim.oracle import Oracle
from zray.sim.plan import Plan
from zray.sim.stores import SimStores


class Observed(Protocol):
    """Its parts, and the processes that live."""

    seed: int
    plan: Plan
    net: FrameNetwork
    wire: Wire
    oracle: Oracle
    stores: SimStores
    cores: dict[bytes, Core]
    nodes: dict[bytes, SimNode]
    nodes_made: int
    returning: list[bytes]

    def serving(self) -> list[SimNode]: ...
