"""Why something waits: one code per cause, used by warnings, GetTimeoutError and ``zray.explain``."""

from __future__ import annotations

from enum import IntEnum


class Cause(IntEnum):
    """A cause of waiting: its code, and the sentence that a user reads."""

    text: str

    def __new__(cls, code: int, text: str = "") -> Cause:
        assert text, "each cause has a sentence"
        cause = int.__new__(cls, code)
        cause._value_ = code
        cause.text = text
        return cause

    READY = 0, "it is ready"
    RUNNING = 1, "its task is running"
    DEPENDENCY = 2, "its task waits for arguments that are not ready"
    LEASE_REQUESTED = 3, "its task waits for the node to grant a worker"
    RESOURCES_BUSY = 4, "the resources its task asks for are in use"
    INFEASIBLE = 5, "no node has the resources its task asks for"
    WORKER_STARTING = 6, "a worker process for its task is starting"
    WORKER_LIMIT = 7, "the node runs as many worker processes as it may"
    PUSHED = 8, "its task is on a worker, behind others"
    ACTOR_PENDING = 9, "its actor is not created yet"
    ACTOR_RESTARTING = 10, "its actor is being restarted"
    ACTOR_BUSY = 11, "its actor has earlier calls to run"
    ACTOR_ORDER = 12, "an earlier call of the same caller waits for its arguments"
    BACKPRESSURE = 13, "its generator waits for the consumer"
    STORE_FULL = 14, "the object store is full"
    RESTORING = 15, "the object is being read back from disk"
    OWNER = 16, "the owner of the object has not answered"
    RETRY = 17, "its task failed and waits to be retried"
    CANCELLING = 18, "its task is being cancelled"
    WORKER_LOST = 19, "its worker is gone and its last replies are being drained"
    GROUP_PENDING = 20, "its placement group has no place yet"
    GROUP_REMOVED = 21, "its placement group was removed"
    GROUP_INFEASIBLE = 22, "no choice of nodes holds its placement group"
    NODE_GONE = 23, "the only node that it may run on is gone"
    STORE_ASKED = 24, "the node has yet to answer for room in the object store"
    TRANSFERRING = 30, "the object is being brought from another node"
    COPYING = 25, "further nodes are getting a copy of the object (durability=)"
    RECONSTRUCTING = 31, "it was lost, and its task runs again to make it once more"
    ADOPTION = 32, "its owner has died, and a process is looked for that has its value"
    BLOCKED = 33, "it waits in get or wait"
    ACTOR_HAS = 34, "its actor has the call, and has not answered whether it runs"
    CONSTRUCTING = 35, "the constructor of its actor is running"
    DEADLOCK = 36, ("a deadlock: it waits, by way of the above, for itself (let the actor run several calls at once "
                    "with max_concurrency, or await in an async method)")
    ENVIRONMENT = 37, "the runtime environment of its task is being set up"
    DEBUGGER = 40, "it has stopped for the debugger"
