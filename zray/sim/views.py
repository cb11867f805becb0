"""The processes of a simulated cluster as the oracle and the stores see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from zray.node.machine import NodeMachine
from zray.owner.adoption import Adoption
from zray.owner.references import References


class NodeView(Protocol):
    """A node daemon."""

    incarnation: bytes
    alive: bool
    machine: NodeMachine


class CoreView(Protocol):
    """A driver or a worker."""

    incarnation: bytes
    home: bytes
    node: bytes
    crashed: bool
    abandoned: bool
    node_is_lost: bool
    refs: References
    adoption: Adoption

    @property
    def host(self) -> NodeView: ...
    @property
    def job(self) -> int: ...
    def owns(self, oid: bytes) -> bool: ...
    def peek(self, value: Any) -> int: ...
    def send(self, peer: bytes, message: Any) -> None: ...


class CoreViews(Protocol):
    """The core processes that live, by incarnation: a dictionary of them."""

    def values(self) -> Iterable[CoreView]: ...
    def get(self, incarnation: bytes, /) -> CoreView | None: ...
    def __contains__(self, incarnation: object, /) -> bool: ...
