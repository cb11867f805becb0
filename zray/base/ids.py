"""Identifiers: fixed-width byte strings, wrapped in classes only where users see them.

Inside the runtime an id is plain ``bytes``; the public API returns the classes below.

    TaskId   = job (4) | hash(parent task, attempt) (12) | counter (8)      24 bytes
    ObjectId = TaskId | index (4, little endian; returns from 1, puts with the top bit)   28 bytes

Ids are stable under replay: the same parent attempt makes the same ids in the same order, and two attempts never
collide.  An *incarnation* (8 bytes, first byte not zero because ZeroMQ reserves that) names one life of one process on
the mesh; it is the first 8 bytes of the node or worker id that the API shows:

    node            tag (4, random) | 0 0 0 0
    worker          tag of its node | number, from 1
    driver, tool    tag of its node | random, top bit set

So a process's incarnation names its node, and with it all processes that died together.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import ClassVar, Self

__all__ = [  # what users see, at several paths
    "ActorClassID", "ActorID", "FunctionID", "JobID", "NodeID", "PlacementGroupID", "TaskID", "UniqueID", "WorkerID",
]

JOB_SIZE = 4
ACTOR_SIZE = 16
PLACEMENT_GROUP_SIZE = 18
TASK_SIZE = 24
OBJECT_SIZE = 28
NODE_SIZE = 28
WORKER_SIZE = 28
INCARNATION_SIZE = 8
PREFIX_SIZE = 16
TAG_SIZE = 4  # of an incarnation: names the node
_NODE = bytes(INCARNATION_SIZE - TAG_SIZE)

RETURN_1 = (1).to_bytes(4, "little")
PUT_FLAG = 0x8000_0000
DYNAMIC_FIRST = 2  # index of the first item of a num_returns="dynamic" task; 1 is the object of the references
PUT_INDEX = (PUT_FLAG | 1).to_bytes(4, "little")


def random_bytes(size: int) -> bytes:
    """Random bytes whose first byte is not zero (usable as a ZeroMQ routing id)."""
    raw = os.urandom(size)
    return raw if raw[0] else b"\x01" + raw[1:]


def new_incarnation() -> bytes:
    return random_bytes(INCARNATION_SIZE)


def new_node_id() -> bytes:
    """A NodeID whose first 8 bytes are the incarnation of a node."""
    return random_bytes(TAG_SIZE) + _NODE + random_bytes(NODE_SIZE - INCARNATION_SIZE)


def worker_id(node: bytes, number: int) -> bytes:
    """The WorkerID of the node's ``number``-th worker (from 1)."""
    return node[:TAG_SIZE] + number.to_bytes(4, "big") + random_bytes(WORKER_SIZE - INCARNATION_SIZE)


def driver_incarnation(node: bytes) -> bytes:
    """For a driver or tool that connects to this node."""
    return node[:TAG_SIZE] + (int.from_bytes(os.urandom(4), "big") | 1 << 31).to_bytes(4, "big")


def node_of(incarnation: bytes) -> bytes:
    """The incarnation of the node that a process belongs to; a node's is itself."""
    return incarnation[:TAG_SIZE] + _NODE


def same_node(one: bytes, other: bytes) -> bool:
    return one[:TAG_SIZE] == other[:TAG_SIZE]


def task_prefix(job: bytes, parent: bytes, attempt: int) -> bytes:
    """The first 16 bytes of every id that one attempt of ``parent`` makes."""
    digest = blake2b(parent + attempt.to_bytes(4, "little"), digest_size=PREFIX_SIZE - JOB_SIZE).digest()
    return job + digest


def task_id(prefix: bytes, counter: int) -> bytes:
    return prefix + counter.to_bytes(8, "little")


def return_id(task: bytes, index: int) -> bytes:
    """ObjectId of return ``index`` (from 1) of ``task``."""
    return task + index.to_bytes(4, "little")


def short(identifier: bytes) -> str:
    """A task's or object's id for people: digits of its parent's hash, the task's number among those of this parent,
    and which of its objects (``.2`` a return, ``.put1`` a put), but for the first return."""
    text = identifier[JOB_SIZE:JOB_SIZE + 4].hex()
    text += f":{int.from_bytes(identifier[PREFIX_SIZE:TASK_SIZE], 'little')}"
    index = int.from_bytes(identifier[TASK_SIZE:], "little")
    if index & PUT_FLAG:
        return f"{text}.put{index ^ PUT_FLAG}"
    return text if index < 2 else f"{text}.{index}"


def actor_id(prefix: bytes, counter: int) -> bytes:
    """ActorId made by the task attempt that owns ``prefix``: job | hash | counter."""
    digest = blake2b(prefix + counter.to_bytes(8, "little"), digest_size=ACTOR_SIZE - JOB_SIZE).digest()
    return prefix[:JOB_SIZE] + digest


def group_id(node: bytes, prefix: bytes, counter: int) -> bytes:
    """PlacementGroupID made by the task attempt that owns ``prefix``: tag of its home node | hash (10) | job.

    So a group's id names its home (:func:`home_of`).
    """
    size = PLACEMENT_GROUP_SIZE - TAG_SIZE - JOB_SIZE
    digest = blake2b(b"group" + prefix + counter.to_bytes(8, "little"), digest_size=size).digest()
    return node[:TAG_SIZE] + digest + prefix[:JOB_SIZE]


def home_of(group: bytes) -> bytes:
    """The incarnation of the first home of a placement group: the node where it was created."""
    return group[:TAG_SIZE] + _NODE


def checked(name: str, raw: bytes, size: int) -> bytes:
    """``raw``, if it can be an id of class ``name``.  TypeError, ValueError."""
    if not isinstance(raw, bytes):
        raise TypeError(f"{name} takes bytes, not {type(raw).__name__}: from hex digits, {name}(bytes.fromhex(text))")
    if len(raw) != size:
        raise ValueError(f"ID string needs to have length {size}, got {len(raw)}: {name} takes {size} bytes")
    return raw


class BaseID:
    """A fixed-width identifier."""

    SIZE: ClassVar[int] = 0
    __slots__ = ("_raw",)

    def __init__(self, raw: bytes):
        self._raw = checked(type(self).__name__, raw, self.SIZE)

    @classmethod
    def from_binary(cls, binary: bytes) -> Self:
        """The id with these bytes.  ValueError for another number of them."""
        return cls(binary)

    @classmethod
    def from_hex(cls, hex_id: str) -> Self:
        """The id with these hex digits.  ValueError for other text."""
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def from_random(cls) -> Self:
        """An id that nothing has."""
        return cls(random_bytes(cls.SIZE))

    @classmethod
    def nil(cls) -> Self:
        """The id of nothing: all ones."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        """Its width in bytes."""
        return cls.SIZE

    def is_nil(self) -> bool:
        """Whether it is :meth:`nil`."""
        return self._raw == b"\xff" * self.SIZE

    def binary(self) -> bytes:
        """Its bytes."""
        return self._raw

    def hex(self) -> str:
        """Its hex digits."""
        return self._raw.hex()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._raw == self._raw  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._raw.hex()})"

    def __reduce__(self):
        return type(self), (self._raw,)


_Number = int  # the name int is a method of JobID


class JobID(BaseID):
    """Of a job: what one driver started."""

    SIZE = JOB_SIZE
    __slots__ = ()

    @classmethod
    def from_int(cls, value: _Number) -> JobID:
        """The id of the job with this number."""
        return cls(value.to_bytes(JOB_SIZE, "big"))

    def int(self) -> _Number:
        """The number of the job."""
        return _Number.from_bytes(self._raw, "big")


class ActorID(BaseID):
    """Of an actor; it begins with the job that made it."""

    SIZE = ACTOR_SIZE
    __slots__ = ()

    @property
    def job_id(self) -> JobID:
        """The job that made the actor."""
        return JobID(self._raw[:JOB_SIZE])


class PlacementGroupID(BaseID):
    """Of a placement group."""

    SIZE = PLACEMENT_GROUP_SIZE
    __slots__ = ()


class TaskID(BaseID):
    """Of a task; it begins with its job."""

    SIZE = TASK_SIZE
    __slots__ = ()

    def job_id(self) -> JobID:
        """The job of the task."""
        return JobID(self._raw[:JOB_SIZE])


class ObjectID(BaseID):
    """Of an object; it begins with the task that makes it."""

    SIZE = OBJECT_SIZE
    __slots__ = ()

    def task_id(self) -> TaskID:
        """The task that makes the object."""
        return TaskID(self._raw[:TASK_SIZE])


class UniqueID(BaseID):
    """An id of anything, as ``UniqueID.from_random()`` makes one."""

    SIZE = NODE_SIZE
    __slots__ = ()


class FunctionID(UniqueID):
    """Of a remote function."""

    __slots__ = ()


class ActorClassID(UniqueID):
    """Of the class of an actor."""

    __slots__ = ()


class NodeID(UniqueID):
    """Of a node of a cluster."""

    SIZE = NODE_SIZE
    __slots__ = ()


class WorkerID(UniqueID):
    """Of a worker process or a driver."""

    SIZE = WORKER_SIZE
    __slots__ = ()
