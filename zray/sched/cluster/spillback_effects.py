"""Effects of Spillback, and its questions to its node; BottomUpScheduler or a test performs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.causes import Cause
from zray.base.named_tuples import NamedTuple


class WantLocal(NamedTuple):
    """LocalScheduler.want of this node, with the numbers that an owner would send."""

    owner: bytes
    key: int
    want: int
    granted: int


class RelayToNode(NamedTuple):
    """Relay ``message`` (LeaseKey, LeaseWant) of our process ``owner`` to another node."""

    node: bytes
    owner: bytes
    message: Any


class WaitReason(NamedTuple):
    """Why a want waits, for the owner (``token`` None) or for the actor that requested ``token``."""

    owner: bytes
    key: int
    cause: int
    detail: str
    token: Any = None


class Ask(NamedTuple):
    """A question for a global scheduler, answered by ``answer``; fields as in zray.wire.messages.PlaceAsk."""

    request: int
    demand: dict
    strategy: dict
    number: int
    queue: bool
    avoid: list
    barred: list


class PlaceRequest(NamedTuple):
    """Ask ``node`` (perhaps this one) to hold request ``token``; ``strategy`` is for its LocalScheduler."""

    node: bytes
    token: Any
    strategy: dict


class UnplaceRequest(NamedTuple):
    """Take the PlaceRequest back; a grant that it led to meanwhile is given back to the node."""

    node: bytes
    token: Any


class Offers(NamedTuple):
    """Questions of Spillback to its node, as functions."""

    obstacle: Callable[[dict, dict], str]  # why home can never hold a demand with a strategy, '' if it can
    # whether it is free anywhere but there, as far as this node's view shows
    could: Callable[[dict, dict, list[bytes]], bool]
    feasible: Callable[[dict, dict, list[bytes]], bool]  # whether a node of this view could ever hold it, except those
    nodes_of: Callable[[dict], list[bytes] | None] = lambda strategy: None  # of a placement group, None if not placed
    # why it has no place
    group_waits: Callable[[dict], tuple[int, str]] = lambda strategy: (int(Cause.GROUP_PENDING), "")
