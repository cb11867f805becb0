"""Actor names at Ray's module path, and how an actor ends itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from zray.base.errors import AsyncioActorExit, ExitActor
from zray.handles.connection import current
from zray.handles.remote import (
    ActorClass,
    ActorClassInheritanceException,
    ActorHandle,
    ActorMethod,
    ActorProxy,
    method,
)

if TYPE_CHECKING:
    from zray.handles.checkpoints import Checkpoint, Checkpointable, CheckpointContext

__all__ = ["ActorClass", "ActorClassInheritanceException", "ActorHandle", "ActorMethod", "ActorProxy", "Checkpoint",
           "CheckpointContext", "Checkpointable", "exit_actor", "method"]


def __getattr__(name: str) -> Any:
    if name in ("Checkpoint", "CheckpointContext", "Checkpointable"):  # of Ray 0.8; rarely needed, so imported late
        from zray.handles import checkpoints

        return getattr(checkpoints, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def exit_actor() -> NoReturn:
    """End the current actor on purpose: it is not restarted, and later calls raise ActorDiedError."""
    runtime = current()
    if runtime is None or not getattr(runtime.context, "actor", None):
        raise TypeError("exit_actor API is called on a non-actor worker. Call this API inside an actor method.")
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ExitActor from None
    raise AsyncioActorExit  # a SystemExit would tear down the loop with the other coroutines on it
