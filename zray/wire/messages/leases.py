"""Leases on workers: between owners and nodes, owners and workers.  Codes 20-49."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(20)
class LeaseKey(Message):
    """Owner -> node: declares scheduling key ``key`` (an integer of this owner's)."""

    key: int
    demand: dict  # resource name -> units of 1/10000
    env: dict  # the runtime environment: see zray.environments.spec
    strategy: dict
    name: str  # of the first function, for humans
    job: int = 0  # when a node sends this for a process of its own; else the job of the process


@message(21)
class LeaseWant(Message):
    """Owner -> node: leases, beyond those held, that this key could use now.  Absolute, so repeats are harmless."""

    key: int
    want: int
    granted: int  # how many grants of this key the owner has seen in its life; makes want unambiguous
    name: str = ""  # of the function that waits first, for humans


@message(22)
class LeaseGrant(Message):
    """Node -> owner: worker ``worker`` (incarnation) is yours until you return lease ``lease``."""

    key: int
    lease: int
    worker: bytes
    endpoint: str
    pid: int
    assigned: dict  # {"gpu_ids": [...], "resources": {...}}


@message(23)
class LeaseReturn(Message):
    """Owner -> node: done with the lease.  ``exiting``: the worker is about to end itself (max_calls, exit)."""

    lease: int
    exiting: bool = False


@message(24)
class LeaseRecall(Message):
    """Node -> owner: another owner waits; return the lease as soon as nothing is in flight on it."""

    lease: int


@message(25)
class LeaseStatus(Message):
    """Node -> owner: why the wants of ``key`` are not granted.  ``cause`` is a zray.base.causes.Cause value."""

    key: int
    cause: int
    detail: str


UNKNOWN = -1  # its task died with its node


@message(26)
class WorkerDied(Message):
    """Node -> every core process that may know the worker.  Marks name its last task (see worker progress marks)."""

    worker: bytes
    lease: int  # the lease it was on, 0 for none
    pid: int
    signal: int  # 0 when it exited by itself
    exit_code: int
    started: int  # sequence number of the last task started on this lease, 0 for none, UNKNOWN
    finished: int
    reason: str  # "" | "killed by zray: ..." | "out of memory" ...
    log_tail: str
    log_file: str = ""  # where the rest of the log is
    ask: dict = {}  # resources, in units, that its task should ask for at least when it runs again


@message(27)
class Blocked(Message):
    """Worker -> node: its task waits in get or wait (True: its CPU is free for others) or runs on (False)."""

    blocked: bool


@message(28)
class LeaseKill(Message):
    """Owner -> node: kill -9 the worker of this lease (cancel with force=True)."""

    lease: int
    reason: str


@message(29)
class LeaseOpen(Message):
    """Owner -> worker, before the first push: the lease that the owner holds on it, and its assigned resources."""

    lease: int
    job: int
    assigned: dict
    env: dict


@message(30)
class FenceOwner(Message):
    """Core process -> node -> all nodes: this owner has ended; answer when no worker runs its tasks (OwnerFenced)."""

    request: int  # 0 between nodes
    owner: bytes


@message(31)
class OwnerFenced(Message):
    """The answer to FenceOwner: no attempt of a task of that owner runs, or will run."""

    request: int
    owner: bytes
