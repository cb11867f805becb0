"""Parts that policies share: the answer codes, the interface, and masks of allowed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zray.base.named_tuples import NamedTuple
from zray.sched.kernels.plain import INFEASIBLE as INFEASIBLE, NOT_NOW as NOT_NOW
from zray.sched.resources import GPU_COLUMN, Demand

if TYPE_CHECKING:
    from zray.sched.view import ClusterView

THRESHOLD_PPM = 500_000  # parts per million; the Ray paper's global scheduler leaves it open, half is Ray's setting
# Masks a view keeps, so that strategies made up on the way (an affinity a task) do not pile up.
MASKS_MAX = 256


class Choice(NamedTuple):
    """Rows to choose among; ``otherwise``: only if no row of the choices before could ever hold the demand."""

    mask: Any
    otherwise: bool = False


class Policy(Protocol):
    """A module with these is a policy."""

    NAME: str

    def choices(self, view: ClusterView, strategy: dict, here: int) -> Sequence[Choice]: ...

    def obstacle(self, view: ClusterView, strategy: dict) -> str: ...


def allowed(view: ClusterView, key: Any, admits: Callable[[int], bool]) -> Any:
    """A mask, in the form that the view's kernels take, of the live rows that ``admits``; kept in the view under
    ``key``, which must say all that ``admits`` looks at besides the view."""
    mask = view.masks.get(key)
    if mask is None:
        if len(view.masks) >= MASKS_MAX:
            view.masks.clear()
        alive, draining = view.alive, view.draining
        mask = view.masks[key] = view.kernels.vector(
            [1 if alive[row] and row not in draining and admits(row) else 0 for row in range(len(view))])
    return mask


def frozen(value: Any) -> Any:
    """A strategy, or a part of one, as a key: equal for equal contents, without the cursor of a spread."""
    if isinstance(value, dict):
        return tuple(sorted((name, frozen(item)) for name, item in value.items() if name != "cursor"))
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    return value


def dense(view: ClusterView, demand: Demand) -> Any:
    """The demand in the form that the view's kernels take."""
    return view.kernels.vector(view.index.vector(demand))


def pick_hybrid(view: Any, demand: Demand, mask: Any, here: int, threshold: int = THRESHOLD_PPM) -> int:
    """One row of the mask by the order that zray.sched.policies.hybrid describes."""
    pick_row = view.kernels.pick_hybrid
    return int(pick_row(view.total, view.available, mask, dense(view, demand), threshold, here, GPU_COLUMN))
