"""The options of actors with checkpoints, and the older interface of Ray for them (Checkpointable)."""

from __future__ import annotations

import datetime
import math
import os
import re
import uuid
from typing import Any, NamedTuple, Protocol

from zray.base.ids import ActorID

__all__ = ["Checkpoint", "CheckpointContext", "Checkpointable", "actor_id_of", "interval", "new_checkpoint_id",
           "settings_of"]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)\s*")


def interval(value: Any) -> dict[str, Any]:
    """``checkpoint_interval``: an int counts calls; a float, a text such as "10s" or a timedelta is a time.

    Returns {"calls": n} or {"seconds": s}.  Raises ValueError for other values.
    """
    if isinstance(value, int):
        if value < 1:
            raise ValueError(f"checkpoint_interval={value!r} is not a number of calls: it must be at least 1")
        return {"calls": value}
    if not isinstance(value, (float, str, datetime.timedelta)):
        raise TypeError("checkpoint_interval must be an int (calls), or a float, a text such as '10s' or a timedelta "
                        f"(a time), not {type(value).__name__}: {value!r}")
    seconds: Any = value
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        found = _TEXT.fullmatch(value)
        if found is None:
            raise ValueError(f"checkpoint_interval={value!r} is no time: write a number and ms, s, m or h, as in '10s'")
        seconds = float(found[1]) * _UNITS_S[found[2]]
    if not (0 < seconds < math.inf):
        raise ValueError(f"checkpoint_interval={value!r} must be longer than 0 s, and finite")
    return {"seconds": float(seconds)}


def settings_of(options: Any, cls: type, name: str, is_async: bool) -> dict[str, Any] | None:
    """The checkpoints of an actor of ``cls``; None without.  ``options`` are ActorOptions.

    Raises ValueError for a class or options that checkpoints do not go with.
    """
    old_style = _is_old_style(cls)
    if options.checkpoint_interval is None and not old_style:
        if options.checkpoint_dir is not None:
            raise ValueError(f"checkpoint_dir of {name} has no effect without checkpoint_interval=: give both")
        return None
    what = "checkpoint_interval" if options.checkpoint_interval is not None else "Checkpointable"
    side_by_side = ("is an async actor" if is_async else
                    f"has max_concurrency={options.max_concurrency}" if (options.max_concurrency or 1) > 1 else
                    "has concurrency_groups" if options.concurrency_groups else "")
    if side_by_side:
        raise ValueError(f"{what} is not possible for {name}, which {side_by_side}: its calls run side by side, so "
                         "a restarted actor has no order in which to run them again. Use a class of plain methods "
                         "without these options.")
    if not options.max_restarts:
        raise ValueError(f"{what} of {name} has no effect with max_restarts=0, because the actor never restarts: give "
                         "max_restarts= too, for example -1")
    if hasattr(cls, "__zray_save__") != hasattr(cls, "__zray_restore__"):
        has, lacks = ("__zray_save__", "__zray_restore__")[::1 if hasattr(cls, "__zray_save__") else -1]
        raise ValueError(f"{name} defines {has} and not {lacks}: checkpoints need both, or neither to pickle the "
                         "instance")
    settings = interval(options.checkpoint_interval) if options.checkpoint_interval is not None else {"calls": 1}
    if old_style:
        settings["old_style"] = True
    if options.checkpoint_dir is not None:
        folder = os.fspath(options.checkpoint_dir)
        settings["dir"] = folder if "://" in folder else os.path.abspath(folder)
    return settings


# ---------------------------------------------------------------- the interface of Ray 0.8


class CheckpointContext(NamedTuple):
    """What ``should_checkpoint`` gets."""

    actor_id: ActorID
    num_tasks_since_last_checkpoint: int
    time_elapsed_ms_since_last_checkpoint: int


class Checkpoint(NamedTuple):
    """What ``load_checkpoint`` may load; ``timestamp`` in seconds since 1970."""

    checkpoint_id: str
    timestamp: float


class Checkpointable(Protocol):
    """The base of actors that keep their state by themselves, as in Ray 0.8.  Prefer ``checkpoint_interval``."""

    def should_checkpoint(self, checkpoint_context: CheckpointContext) -> bool:
        """Whether to call ``save_checkpoint`` now; asked after calls."""
        raise NotImplementedError

    def save_checkpoint(self, actor_id: ActorID, checkpoint_id: str) -> None:
        """Store the state under that id, where a restarted actor on any node finds it."""
        raise NotImplementedError

    def load_checkpoint(self, actor_id: ActorID, available_checkpoints: list[Checkpoint]) -> str | None:
        """Load the given checkpoint after a restart, and return its id."""
        raise NotImplementedError

    def checkpoint_expired(self, actor_id: ActorID, checkpoint_id: str) -> None:
        """That checkpoint is not needed any more."""
        raise NotImplementedError


def _is_old_style(cls: type) -> bool:
    return Checkpointable in cls.__mro__


def actor_id_of(actor: bytes) -> ActorID:
    return ActorID(actor)


def new_checkpoint_id() -> str:
    return uuid.uuid4().hex
