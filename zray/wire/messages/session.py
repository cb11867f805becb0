"""The identity of a peer, and its planned end.  Codes 1-19."""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(1)
class Hello(Message):
    """First message of a process that dials: its identity, its protocol, and the endpoint where it can be dialled."""

    protocol: int
    kind: str  # "driver" | "worker" | "node"
    endpoint: str
    pid: int
    job: int
    python: str
    features: list[str]


@message(2)
class HelloAck(Message):
    """The answer to a Hello; ``refused`` is the reason against the peer ('' when it is welcome)."""

    protocol: int
    kind: str
    features: list[str]
    refused: str = ""


@message(3)
class Bye(Message):
    """A planned exit: all messages sent before are complete, no more follow."""

    reason: str
