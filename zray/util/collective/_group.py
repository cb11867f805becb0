"""One rank of a group: the collective operations on numpy arrays, by parts that the ranks exchange at their hub.

Small arrays travel inside the messages.  Large ones are objects: ranks on one machine read each other's in shared
memory.  A large allreduce is a reduce-scatter and an allgather (Rabenseifner 2004): each rank combines one piece, so
that every element is read once, and not once for each rank.  Every rank combines in the order of ranks, so that all
of them have the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zray.api.calls import get, put
from zray.base.errors import RayActorError
from zray.handles.refs import ObjectRef
from zray.util.collective.types import ReduceOp

__all__ = ["CollectiveGroup"]

SHIPPED_BYTES_MAX = 32 << 10
# An answer of the hub may come so much later than its own time-out, in seconds.
HUB_LATE_S = 30.0
# In the error of calls to an actor that ended with the process that created it.
MAKER_ENDED = "the process that created it ended"

_COMBINE = {ReduceOp.SUM: np.add, ReduceOp.PRODUCT: np.multiply, ReduceOp.MIN: np.minimum, ReduceOp.MAX: np.maximum}


class CollectiveGroup:
    """A rank; ``hub`` is the handle of the group's CollectiveHub, ``maker`` the rank that made it, or -1."""

    def __init__(self, name: str, hub: Any, world_size: int, rank: int, timeout_s: float, maker: int = -1):
        self.name = name
        self.hub = hub
        self.world_size = world_size
        self.rank = rank
        self.timeout_s = timeout_s
        self.maker = maker
        self._number = 0
        self._passed: dict[tuple[int, int], int] = {}  # (sender, receiver) -> how many

        self._mark: ObjectRef | None = None

    def show_presence(self) -> None:
        """Leave a reference at the hub that is lost when this process dies."""
        self._mark = self.hub.stay.remote(self.rank)
        get(self.hub.watch.remote(self.rank, [self._mark]))

    # ---------------------------------------------------------------- operations

    def barrier(self) -> None:
        self._meet("barrier()", None)

    def broadcast(self, array: np.ndarray, source: int) -> None:
        self._check_rank(source)
        part = (None, _packed(array)) if self.rank == source else None
        parts = self._meet(f"broadcast({_about(array)}, src_rank={source})", part)
        if self.rank != source:
            np.copyto(array, _unpacked(parts[source]))

    def reduce(self, array: np.ndarray, target: int, op: ReduceOp) -> None:
        self._check_rank(target)
        part = (target, _packed(array)) if self.rank != target else None
        parts = self._meet(f"reduce({_about(array)}, dst_rank={target}, {op.name})", part)
        if self.rank == target:
            np.copyto(array, self._combined(parts, array, op))

    def allreduce(self, array: np.ndarray, op: ReduceOp) -> None:
        what = f"allreduce({_about(array)}, {op.name})"
        if array.nbytes <= SHIPPED_BYTES_MAX or self.world_size == 1:
            parts = self._meet(what, (None, _packed(array)))
            np.copyto(array, self._combined(parts, array, op))
            return
        pieces = np.array_split(np.ascontiguousarray(array).reshape(-1), self.world_size)
        mine = self._scattered(what, pieces, op)
        parts = self._meet(f"{what}: gather", (None, _packed(mine)))
        result = np.concatenate([_unpacked(part) if rank != self.rank else mine for rank, part in enumerate(parts)])
        np.copyto(array, result.reshape(array.shape))

    def allgather(self, into: list[np.ndarray], array: np.ndarray) -> None:
        self._check_list(into, "allgather")
        parts = self._meet(f"allgather({_about(array)})", (None, _packed(array)))
        for rank, target in enumerate(into):
            np.copyto(target, _unpacked(parts[rank]) if rank != self.rank else array)

    def reducescatter(self, into: np.ndarray, arrays: list[np.ndarray], op: ReduceOp) -> None:
        self._check_list(arrays, "reducescatter")
        if any(array.shape != into.shape or array.dtype != into.dtype for array in arrays):
            raise ValueError(f"the arrays of reducescatter must be as the target, {_about(into)}, but are "
                             f"{', '.join(map(_about, arrays))}")
        np.copyto(into, self._scattered(f"reducescatter({_about(into)}, {op.name})", arrays, op))

    def send(self, array: np.ndarray, target: int) -> None:
        self._pass(array, self.rank, target, "destination", _packed(array))

    def recv(self, array: np.ndarray, source: int) -> None:
        np.copyto(array, _unpacked(self._pass(array, source, self.rank, "source", None)))

    # ---------------------------------------------------------------- the hub

    def _meet(self, what: str, part: Any) -> list[Any]:
        self._number += 1
        return self._answer(self.hub.meet.remote(self._number, self.rank, what, part, self.timeout_s))

    def _pass(self, array: np.ndarray, source: int, target: int, word: str, part: Any) -> Any:
        other = target if source == self.rank else source
        self._check_rank(other)
        if other == self.rank:
            raise RuntimeError(f"The {word} rank '{other}' is self.")
        number = self._passed[source, target] = self._passed.get((source, target), 0) + 1
        return self._answer(self.hub.pass_on.remote((source, target, number), self.rank, _about(array), part,
                                                    self.timeout_s))

    def _answer(self, ref: ObjectRef) -> Any:
        try:
            failure, found = get(ref, timeout=self.timeout_s + HUB_LATE_S)
        except RayActorError as error:
            if self.maker >= 0 and MAKER_ENDED in str(error):
                raise RuntimeError(f"the process of rank {self.maker} of the group {self.name!r} has died, and it had "
                                   "made the group: destroy the group in the other ranks and make it again") from error
            raise RuntimeError(f"the collective group {self.name!r} has ended: it was destroyed, or the process that "
                               f"made it has ended. {error}") from error
        if failure:
            raise RuntimeError(failure)
        return found

    def _scattered(self, what: str, pieces: list[np.ndarray], op: ReduceOp) -> np.ndarray:
        """This rank's piece, combined over the ranks."""
        part = [None if rank == self.rank else _packed(piece) for rank, piece in enumerate(pieces)]
        return self._combined(self._meet(what, ("each", part)), pieces[self.rank], op)

    def _combined(self, parts: list[Any], own: np.ndarray, op: ReduceOp) -> np.ndarray:
        """The parts of all ranks as one array, in the order of ranks; this rank's part is ``own``."""
        total: np.ndarray | None = None
        for rank, part in enumerate(parts):
            array = own if rank == self.rank else _unpacked(part)
            if total is None:
                total = array.copy()
            else:
                _COMBINE[op](total, array, out=total)
        assert total is not None
        return total

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is not in the group {self.name!r}, which has the ranks 0 to "
                             f"{self.world_size - 1}")

    def _check_list(self, arrays: list[np.ndarray], operation: str) -> None:
        if len(arrays) != self.world_size:
            raise RuntimeError(f"The length of the tensor list operands to {operation} must be equal to world_size. "
                               f"Got {len(arrays)} arrays for {self.world_size} ranks")


def _about(array: np.ndarray) -> str:
    return f"{array.dtype} {'x'.join(map(str, array.shape)) or 'scalar'}"


def _packed(array: np.ndarray) -> Any:
    """An array as a part: itself if it is small, else a reference to a copy."""
    array = np.asarray(array, order="C")  # ascontiguousarray would give a scalar a dimension
    return array if array.nbytes <= SHIPPED_BYTES_MAX else [put(array)]


def _unpacked(part: Any) -> np.ndarray:
    return get(part[0]) if isinstance(part, list) else part
