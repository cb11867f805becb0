"""Who a peer is, and that it leaves.  Codes 1-19."""

from __future__ import annotations

from zray.messages.base import Message, message


@message(1)
class Hello(Message):
    """First message of whoever dials: who I am, what I speak, where I can be dialled."""

    protocol: int
    kind: str  # "driver" | "worker" | "node"
    endpoint: str
    pid: int
    job: int
    python: str
    features: list[str]


@message(2)
class HelloAck(Message):
    """The answer to a Hello; ``refused`` says why the peer is not welcome ('' when it is)."""

    protocol: int
    kind: str
    features: list[str]
    refused: str = ""


@message(3)
class Bye(Message):
    """A planned exit: everything I sent before this is complete, expect no more."""

    reason: str
