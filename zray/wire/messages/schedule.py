"""Scheduling between nodes: rows of the cluster view, questions to global schedulers.  Codes 230-239."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(230)
class ViewRows(Message):
    """Node -> node: rows of the cluster view that changed, each ``[node, version, flags, decisions, available, wants,
    total, labels]`` (zray.sched.cluster.gossip.GossipRow).  Absolute, so repeats and reordering are harmless.
    """

    rows: list


@message(231)
class PlaceAsk(Message):
    """Node -> global scheduler: where could ``count`` leases of ``demand`` be granted?  Answered by PlaceAnswer.

    ``avoid``: nodes that just proved busy; ``barred``: nodes that can never grant it.  ``queue``: also name nodes in
    whose queues the rest may wait.
    """

    request: int
    demand: dict  # resource name -> units of 1/10000
    strategy: dict
    count: int
    queue: bool
    avoid: list
    barred: list


@message(232)
class PlaceAnswer(Message):
    """``placed`` and ``queued`` are ``[[node, n], ...]``; ``cause`` and ``detail`` explain the ``left`` ones."""

    request: int
    placed: list
    queued: list
    left: int
    cause: int
    detail: str
