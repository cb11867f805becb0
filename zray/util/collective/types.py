"""Names that calls of zray.util.collective take."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["Backend", "ReduceOp"]


class ReduceOp(Enum):
    """How arrays are combined, element by element."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3


class Backend:
    """Checks the name of a backend: ``Backend("gloo")`` is "GLOO".  ValueError for one that is not there."""

    GLOO = "GLOO"
    NCCL = "NCCL"
    UNRECOGNIZED = "unrecognized"

    def __new__(cls, name: Any = UNRECOGNIZED) -> Any:
        upper = str(name).upper()
        if upper in ("GLOO", "TORCH_GLOO", "AUTO", "ZRAY"):
            return cls.GLOO
        if upper == cls.NCCL:
            raise ValueError("The backend NCCL is not supported: arrays of GPUs do not travel between processes. Use "
                             "backend='gloo' with numpy arrays or tensors of the CPU")
        raise ValueError(f"Unrecognized backend: {name!r}. Use 'gloo'")
