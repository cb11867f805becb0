"""Why something waits: one code per cause, used by warnings, GetTimeoutError and ``zray.explain``."""

from __future__ import annotations

from enum import IntEnum


class Cause(IntEnum):
    """A cause of waiting; ``.text`` is the sentence a user reads."""

    READY = 0
    RUNNING = 1
    DEPENDENCY = 2
    LEASE_REQUESTED = 3
    RESOURCES_BUSY = 4
    INFEASIBLE = 5
    WORKER_STARTING = 6
    WORKER_LIMIT = 7
    PUSHED = 8
    ACTOR_PENDING = 9
    ACTOR_RESTARTING = 10
    ACTOR_BUSY = 11
    ACTOR_ORDER = 12
    BACKPRESSURE = 13
    STORE_FULL = 14
    RESTORING = 15
    OWNER = 16
    RETRY = 17
    CANCELLING = 18
    WORKER_LOST = 19
    GROUP_PENDING = 20
    GROUP_REMOVED = 21
    GROUP_INFEASIBLE = 22
    NODE_GONE = 23
    STORE_ASKED = 24
    TRANSFERRING = 30
    RECONSTRUCTING = 31
    ADOPTION = 32
    BLOCKED = 33
    ACTOR_HAS = 34
    CONSTRUCTING = 35
    DEADLOCK = 36

    @property
    def text(self) -> str:
        return _TEXT[self]


_TEXT = {
    Cause.READY: "it is ready",
    Cause.RUNNING: "its task is running",
    Cause.DEPENDENCY: "its task waits for arguments that are not ready",
    Cause.LEASE_REQUESTED: "its task waits for the node to grant a worker",
    Cause.RESOURCES_BUSY: "the resources its task asks for are in use",
    Cause.INFEASIBLE: "no node has the resources its task asks for",
    Cause.WORKER_STARTING: "a worker process for its task is starting",
    Cause.WORKER_LIMIT: "the node runs as many worker processes as it may",
    Cause.PUSHED: "its task is on a worker, behind others",
    Cause.ACTOR_PENDING: "its actor is not created yet",
    Cause.ACTOR_RESTARTING: "its actor is being restarted",
    Cause.ACTOR_BUSY: "its actor has earlier calls to run",
    Cause.ACTOR_ORDER: "an earlier call of the same caller waits for its arguments",
    Cause.BACKPRESSURE: "its generator waits for the consumer",
    Cause.STORE_FULL: "the object store is full",
    Cause.STORE_ASKED: "the node has yet to answer for room in the object store",
    Cause.RESTORING: "the object is being read back from disk",
    Cause.OWNER: "the owner of the object has not answered",
    Cause.RETRY: "its task failed and waits to be retried",
    Cause.CANCELLING: "its task is being cancelled",
    Cause.WORKER_LOST: "its worker is gone and its last replies are being drained",
    Cause.GROUP_PENDING: "its placement group has no place yet",
    Cause.GROUP_INFEASIBLE: "no choice of nodes holds its placement group",
    Cause.GROUP_REMOVED: "its placement group was removed",
    Cause.NODE_GONE: "the only node that it may run on is gone",
    Cause.TRANSFERRING: "the object is being brought from another node",
    Cause.ADOPTION: "its owner has died, and a process is looked for that has its value",
    Cause.BLOCKED: "it waits in get or wait",
    Cause.ACTOR_HAS: "its actor has the call, and has not answered whether it runs",
    Cause.CONSTRUCTING: "the constructor of its actor is running",
    Cause.DEADLOCK: "a deadlock: it waits, by way of the above, for itself (let the actor run several calls at once "
                    "with max_concurrency, or await in an async method)",
    Cause.RECONSTRUCTING: "it was lost, and its task runs again to make it once more",
}
