"""Which process holds which object: between owners and holders.  Codes 70-79."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(70)
class HoldAdd(Message):
    """Holder (or a sender on its behalf) -> owner: ``holder`` holds these objects; n orders adds and drops.

    A third item in a hold: 1, the value is here already, do not send it; 2, an argument's, do not send it yet.
    """

    holds: list  # [[oid, n], ...] or [oid, n, 1 | 2]
    holder: bytes
    transit: list  # transit tokens this clears, [] for none


@message(71)
class HoldAck(Message):
    holds: list  # as in HoldAdd
    missing: list  # oids that no longer exist


@message(72)
class HoldDrop(Message):
    """Holder -> owner: its last reference went away (1 to 0)."""

    holds: list  # [[oid, n], ...]
    holder: bytes


@message(73)
class Locate(Message):
    """Borrower -> owner: send the values of these when they are ready."""

    oids: list[bytes]


@message(74)
class Resolved(Message):
    """Owner -> borrower: ``[oid, value, oid, value, ...]``, asked for or not; a value may be CARRYING."""

    values: list


@message(75)
class TransitDone(Message):
    """Receiver of a reference -> its sender: the owner knows the receiver, so drop the hold that was kept for it."""

    tokens: list[int]


@message(79)
class ObjectLost(Message):
    """Borrower -> owner: no copy of this value of the object can be read.

    Answered by Resolved, when the object is there again: with its new value, or with the reason against one.
    """

    oid: bytes
    value: list
    reason: str


@message(76)
class CancelObject(Message):
    """Borrower -> owner: cancel the task that makes this object."""

    oid: bytes
    force: bool
    recursive: bool


@message(77)
class Why(Message):
    """Any process -> the owner of an object, or the worker of a task (``what`` is its id): why is it not ready?"""

    request: int
    what: bytes


@message(78)
class Because(Message):
    """The answer to Why: ``found`` has [[id, cause, about], ...] as zray.core.waits.explaining makes them, [] when the
    asked process knows no more.  ``text`` has stacks, or the words of a process of an older version."""

    request: int
    text: str
    found: list = []
