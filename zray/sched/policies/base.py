"""What policies have in common: the answer codes, the interface, and masks of allowed rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from zray.sched.resources import Demand

if TYPE_CHECKING:
    from zray.sched.view import ClusterView

NOT_NOW = -1  # some allowed node could hold it, none has it free
INFEASIBLE = -2  # no allowed node could hold it, not even when empty


class Policy(Protocol):
    """A module with these is a policy."""

    NAME: str

    def pick(self, view: ClusterView, demand: Demand, strategy: dict, here: int) -> int: ...

    def obstacle(self, view: ClusterView, strategy: dict) -> str: ...


def allowed(view: ClusterView, admits: Callable[[int], bool]) -> Any:
    """A mask, in the form that the view's kernels take, of the live rows that ``admits``."""
    alive = view.alive
    return view.kernels.vector([1 if alive[row] and admits(row) else 0 for row in range(len(view))])


def dense(view: ClusterView, demand: Demand) -> Any:
    """The demand in the form that the view's kernels take."""
    return view.kernels.vector(view.index.vector(demand))
