"""Actor names at Ray's module path, and how an actor ends itself."""

from __future__ import annotations

from typing import NoReturn

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

__all__ = ["ActorClass", "ActorClassInheritanceException", "ActorHandle", "ActorMethod", "ActorProxy", "exit_actor",
           "method"]


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
