"""The records that the owner's machines share.  Data only; each machine's file owns the transitions.

Memory matters here: a driver may queue a million tasks, and each task is one Task, one Entry and one ObjectRef.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

Value = Any  # a wire value, see zray.wire.messages


class Net(Protocol):
    """The transport (or the simulator) as the owner's machines use it: no method blocks."""

    def send(self, peer: bytes, message: Any) -> None: ...
    def connect(self, peer: bytes, endpoint: str) -> None: ...
    def disconnect(self, peer: bytes) -> None: ...


class Entry:
    """An object that this process owns.

    ``value`` is None while pending.  ``refs`` counts local ObjectRefs and pins: tasks that use the object, values
    that contain it.  ``holders`` are other processes.  The object lives while it has refs or holders.
    """

    __slots__ = ("oid", "value", "refs", "task", "waiters", "holders", "contained", "escaped")
    owner = None

    def __init__(self, oid: bytes, task: Any = None):
        self.oid = oid
        self.value: Value = None
        self.refs = 1
        self.task = task  # the unfinished maker of the value: a Task, a MapBatch, or a GroupWait
        self.waiters: list[Callable[[Any], None]] | None = None
        self.holders: dict[bytes, int] | None = None
        self.contained: list[Any] | None = None
        self.escaped = False


class Abandoned:
    """A waiter that is not needed any more: remove it from these records."""

    __slots__ = ("waiter", "records")

    def __init__(self, waiter: Callable[[Any], None], records: list[Any]):
        self.waiter = waiter
        self.records = records


class Borrowed:
    """An object that another process owns and this one holds; ``n`` numbers this hold."""

    __slots__ = ("oid", "value", "refs", "waiters", "owner", "endpoint", "n", "asked", "confirmed", "keepalive",
                 "passed", "contained", "kept", "lent", "moved", "escaped", "recipe")
    task = None

    def __init__(self, oid: bytes, owner: bytes, endpoint: str, n: int):
        self.oid = oid
        self.value: Value = None
        self.refs = 0
        self.waiters: list[Callable[[Any], None]] | None = None
        self.owner = owner
        self.endpoint = endpoint
        self.n = n
        self.escaped = True  # as in an Entry, so that code that passes a record on need not test its kind
        self.asked = False
        self.confirmed = False
        self.keepalive: list[Any] | None = None  # pinned until the owner has confirmed this hold
        self.passed: dict[bytes, int] | None = None  # processes that got it from us and still held it -> their n
        self.contained: list[Any] | None = None  # records inside its value, when they arrived with it
        # While it is pending: how to make it, or why only its owner can (zray.owner.recipes).  Then ``contained`` has
        # the inputs of its task.
        self.recipe: Any = None
        self.lent = False  # it is an argument, and may end with its task
        self.kept = 0  # bytes of a value that came unasked
        self.moved = 0  # how often its owner changed: see zray.owner.adoption


Record = Entry | Borrowed


class Function:
    """A remote function at its owner; ``run_ns`` is its measured run time, None before its first run.

    ``blob`` is None when only the control store has it.  ``arguments_carry``: an argument of a task that was pushed
    behind its producer carried references, which only the owner can pass on (zray.owner.followers).
    """

    __slots__ = ("key", "blob", "name", "run_ns", "arguments_carry")

    def __init__(self, key: bytes, blob: bytes | None, name: str):
        self.key = key
        self.blob = blob
        self.name = name
        self.run_ns: int | None = None
        self.arguments_carry = False


# States of a Task.  WAITING -> QUEUED -> PUSHED -> DONE; back to QUEUED on hand-back and retry.
WAITING, QUEUED, PUSHED, DONE = range(4)


class Task:
    """One submitted task, all attempts.

    ``entry`` is its Entry, or a list of them.  ``cancelling`` is None, or "asked" | "force": no further attempt.
    ``behind``: how often it was pushed behind the tasks that make its arguments (zray.owner.followers).
    """

    __slots__ = ("tid", "attempt", "fn", "args", "nret", "extra", "key", "entry", "deps", "pins", "missing",
                 "retries", "state", "lease", "seq", "cancelling", "parent", "stream", "retry_errors", "created",
                 "behind")

    def __init__(self, tid: bytes, fn: Function, args: Value, nret: int, key: Any, retries: int):
        self.tid = tid
        self.attempt = 0
        self.fn = fn
        self.args = args
        self.nret = nret
        self.extra: dict[str, Any] | None = None
        self.key = key
        self.entry: Any = None
        self.deps: list[Any] | None = None  # records of top-level references, in slot order
        self.pins: list[Any] | None = None  # every record that must live until the task ends
        self.missing = 0
        self.retries = retries  # -1: without bound
        self.state = WAITING
        self.lease: Any = None
        self.seq = 0
        self.cancelling: str | None = None
        self.parent = b""
        self.stream: Any = None
        self.retry_errors: Any = False  # or True, or the exception types to retry
        self.created = 0.0  # when it was submitted, as exact as a turn
        self.behind = 0


class Key:
    """A scheduling key of this owner: its queue and its leases."""

    __slots__ = ("number", "demand", "env", "strategy", "name", "queue", "leases", "idle", "want", "granted",
                 "status", "declared", "dirty", "failed", "skipped", "waited")

    def __init__(self, number: int, demand: dict, env: dict, strategy: dict, name: str):
        self.number = number
        self.demand = demand
        self.env = env
        self.strategy = strategy
        self.name = name
        self.queue: deque[Any] = deque()
        self.leases: dict[int, Lease] = {}
        self.idle: list[Lease] = []  # open, nothing in flight
        self.want = 0  # as last sent
        self.granted = 0
        self.status: tuple[int, str] | None = None
        self.waited: tuple[float, int, str] | None = None  # the last status that the node sent, and when
        self.declared = False
        self.dirty = False
        self.failed: list[Any] | None = None  # the error of all its tasks, when none can ever run
        self.skipped = 0  # at least so many works in the queue were cancelled; the queue skips them

    def check(self) -> None:
        for lease in self.idle:
            assert not lease.inflight, "an idle lease has work"
            assert lease.number in self.leases
        for task in self.queue:
            if type(task) is Task and task.state == QUEUED:
                assert task.missing == 0
                assert self.want or self.dirty, "tasks are queued, and no lease is wanted for them"


class Lease:
    """A worker that is ours until we return it.

    ``paused``: the worker blocks, or runs a long task, and has handed back its queue; it is fed again when its
    task ends.  ``death_notice``: the node's WorkerDied, kept until our connection to the worker is drained.

    Of zray.owner.followers: ``candidates`` may be pushed behind their producers; without room they wait until at most
    ``refill_at`` tasks are in flight.  The task with the sequence number ``barrier`` waits for all before it.
    """

    __slots__ = ("number", "key", "link", "inflight", "next_seq", "idle_since", "paused", "recalled",
                 "exiting", "death_notice", "pid", "assigned", "returned", "candidates", "refill_at", "barrier")

    def __init__(self, number: int, key: Key, link: WorkerLink, pid: int, assigned: dict):
        self.number = number
        self.key = key
        self.link = link
        self.inflight: dict[int, Any] = {}
        self.next_seq = 1
        self.idle_since = 0.0
        self.paused = False
        self.recalled = False
        self.exiting = False  # the worker ends after this task (max_calls)
        self.death_notice: Any = None
        self.pid = pid
        self.assigned = assigned
        self.returned = False
        self.candidates: list[Task] = []
        self.refill_at = 0
        self.barrier = 0


class WorkerLink:
    """Our connection to a worker: the functions that were sent to it, and the lease that it serves now."""

    __slots__ = ("peer", "endpoint", "functions", "closed", "lease")

    def __init__(self, peer: bytes, endpoint: str):
        self.peer = peer
        self.endpoint = endpoint
        self.functions: set[bytes] = set()
        self.closed = False
        self.lease: Lease | None = None
