"""Ray's ``util.multiprocessing``: the parts of the standard library's module that work across processes and machines.

``from zray.util.multiprocessing import Pool`` in place of ``from multiprocessing import Pool``.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
    current_process,
    freeze_support,
)
from typing import Any

from zray.util.multiprocessing._queues import JoinableQueue, SimpleQueue
from zray.util.multiprocessing.pool import Pool

__all__ = ["AuthenticationError", "BufferTooShort", "JoinableQueue", "Pool", "ProcessError", "Queue", "SimpleQueue",
           "TimeoutError", "cpu_count", "current_process", "freeze_support", "get_context"]

Queue = JoinableQueue


def cpu_count() -> int:
    """The CPUs of the cluster; those of this machine while no session is running."""
    from zray.api.calls import cluster_resources, is_initialized

    return int(cluster_resources().get("CPU", 0)) or 1 if is_initialized() else os.cpu_count() or 1


def get_context(method: str | None = None) -> Any:
    """This module, for each start method of the standard library: zray starts its processes in its own way."""
    if method not in (None, "fork", "spawn", "forkserver"):
        raise ValueError(f"cannot find context for {method!r}")
    return sys.modules[__name__]


# Names of the standard library that have no meaning across machines, and what to use.
_INSTEAD = {
    "Process": "a task or an actor (@zray.remote)", "Manager": "an actor", "Pipe": "two Queues", "Value": "an actor",
    "Array": "zray.put, or an actor", "Lock": "an actor", "RLock": "an actor", "Event": "an actor",
    "Condition": "an actor", "Semaphore": "an actor with max_concurrency", "BoundedSemaphore": "an actor",
    "Barrier": "zray.util.collective.barrier, or an actor", "shared_memory": "zray.put: workers read it in place"}


def __getattr__(name: str) -> Any:
    if name in _INSTEAD:
        raise AttributeError(f"zray.util.multiprocessing has no {name}: it works on one machine only. "
                             f"Use {_INSTEAD[name]} instead")
    raise AttributeError(f"module 'zray.util.multiprocessing' has no attribute {name!r}")
