"""Members of the control store, and living nodes: configuration register, leases, heartbeats.  Codes 220-229.

A configuration travels as ``zray.gcs.configuration.config.ClusterConfig.pack()``; ``base`` is always the last one that
the sender knows to be decided, so a receiver that is behind learns it on the way.
"""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(220)
class RegisterPrepare(Message):
    """Proposer -> voters of ``base`` and of its wish: take part in no lower round of the decision that follows
    ``base``."""

    round: int
    base: list


@message(221)
class RegisterPromise(Message):
    """Voter -> proposer: it joins no lower round; ``accepted`` in (``accepted_round``, ``accepted_by``), or []."""

    generation: int  # that is being decided
    round: int
    accepted_round: int
    accepted_by: bytes
    accepted: list


@message(222)
class RegisterAccept(Message):
    """Proposer -> voters of ``base`` and of ``value``: accept ``value`` as the configuration that follows ``base``."""

    round: int
    base: list
    value: list


@message(223)
class RegisterAccepted(Message):
    generation: int
    round: int


@message(224)
class RegisterRefused(Message):
    """Voter -> proposer: a refusal: a round up to ``promised_round`` is promised, or a lease runs for ``wait_s``."""

    generation: int
    round: int
    promised_round: int
    wait_s: float


@message(225)
class ConfigIs(Message):
    """Any node -> any node: this configuration is decided."""

    config: list


@message(226)
class LeaseAsk(Message):
    """Tail -> voters: a request for a lease, to answer reads."""

    generation: int  # the configuration that the tail knows to be decided
    number: int


@message(227)
class LeasePromise(Message):
    """Voter -> tail: it accepts no configuration without that tail for a while
    (zray.gcs.configuration.register.PROMISE_S)."""

    generation: int
    number: int


@message(228)
class Heartbeat(Message):
    """Node -> voters.

    ``reports``: of a chain member, ``[shard, epoch, established, joiner caught up]`` for each chain it is in.
    ``silent``, ``lost``: of a voter, the nodes that it has not heard for the short and for the long time-out.
    ``informed``: the node knows the rows of all nodes that have a part in that configuration.
    """

    generation: int
    reports: list
    silent: list[bytes]
    lost: list[bytes]
    informed: bool = True


@message(229)
class NodeStanding(Message):
    """About ``node``: "gone" (its process is proven dead), "released" (answers no reads any more), "fenced" (you were
    declared dead)."""

    node: bytes
    standing: str
    reason: str
