"""Placement groups: between core processes, the group's home node, and the nodes of its bundles.  Codes 240-249."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(240)
class CreateGroup(Message):
    """Core process -> its node, which becomes the group's home.

    ``spec``: bundles ([{resource: units}, ...]), strategy (PACK SPREAD STRICT_PACK STRICT_SPREAD), name, namespace,
    detached.
    """

    group: bytes
    spec: dict
    request: int  # answered by GroupReply when not 0


@message(241)
class GroupReply(Message):
    """Home -> core process: answers CreateGroup; error '' or 'name_taken' | 'refused'."""

    request: int
    error: str
    group: bytes
    detail: str


@message(242)
class RemoveGroup(Message):
    """Core process -> its node -> the group's home."""

    group: bytes
    reason: str


@message(243)
class WatchGroup(Message):
    """Core process -> its node -> the group's home: send it GroupState now and at each change."""

    group: bytes


@message(244)
class GroupState(Message):
    """Home -> watching nodes -> their core processes.  state: PENDING CREATED RESCHEDULING REMOVED."""

    group: bytes
    version: int  # of this group's state: later ones are greater
    state: str
    nodes: list  # by bundle: the incarnation of its node, b'' where it has none
    cause: dict  # {"cause": Cause, "detail": str}: why it waits, or why it was removed


@message(245)
class BundleReserve(Message):
    """Home -> node, prepare: set these bundles aside, all or none; answered by BundleReserved.

    ``wait``: when they are not free now, queue for them, and answer when they are, or never after a BundleReturn.
    """

    group: bytes
    attempt: int  # numbers the home's rounds for this group
    job: int
    bundles: list  # [[index, {resource: units}], ...]
    wait: bool
    name: str  # of the group, for humans


@message(246)
class BundleReserved(Message):
    group: bytes
    attempt: int
    ok: bool
    detail: str  # the reason for a refusal


@message(247)
class BundleCommit(Message):
    """Home -> node: the bundles of this round are in use from now on; answered by BundleAck."""

    group: bytes
    attempt: int


@message(248)
class BundleReturn(Message):
    """Home -> node: give back the bundles of this round (``removed``: of this and all earlier rounds), and end the
    workers that use them; answered by BundleAck."""

    group: bytes
    attempt: int
    removed: bool


@message(249)
class BundleAck(Message):
    """Node -> home: done.  state: COMMITTED, UNKNOWN (nothing to commit here), RETURNED, REMOVED."""

    group: bytes
    attempt: int
    state: str
