"""What a core process's machine asks of what surrounds it.  Pure.

The product gives it the mesh, the store client, pickling and a Runtime; the simulator gives it its own of each.  There
are no defaults: a composition that forgets a port fails when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from zray.wire import messages as m


class Transport(Protocol):
    """The mesh.  ``send`` only appends to its outbox, which goes out once a turn; nothing here blocks."""

    lasting: set[bytes]
    job: int

    def send(self, peer: bytes, code: int, message: Any) -> None: ...
    def connect(self, peer: bytes, endpoint: str) -> None: ...
    def connected(self, peer: bytes) -> bool: ...
    def disconnect(self, peer: bytes) -> None: ...
    def hold(self, peer: bytes) -> None: ...
    def resume(self, peer: bytes) -> None: ...
    def give_up(self, peer: bytes) -> None: ...
    def forget(self, peer: bytes) -> None: ...
    def dialled(self, peer: bytes) -> bool: ...
    def peers(self) -> list[bytes]: ...


class Dialling(Protocol):
    """How processes of other nodes are reached, and reach this one: zray.core.reach."""

    def dial(self, peer: bytes, endpoint: str) -> None: ...
    def serve(self, request: m.BindTcp) -> str: ...


class Store(Protocol):
    """The objects of this process in its node's store: zray.core.stored.  All under the lock."""

    def free(self, oid: bytes, value: Any, escaped: bool) -> None:
        """The owner's last reference to a stored value has gone."""

    def flush(self) -> None:
        """Once a turn: what was gathered for the node."""

    def relieve(self, bytes_max: int) -> int:
        """Move inline values to the store; returns at how many bytes to try again."""

    def node_lost(self, failure: list[Any]) -> None:
        """Nobody answers any more what the store was asked."""


class Shell(Protocol):
    """The process around the machine: time, words for the user, user code."""

    def clock(self) -> float:
        """The time now, for what happens outside of a turn."""

    def later(self, seconds: float, action: Callable[[], None]) -> Any:
        """``action()`` under the lock after so long."""

    def retry_matches(self, wanted: Any, failure: list[Any]) -> bool:
        """Whether a task_error is one of the exception types in ``wanted``."""

    def refused(self, peer: bytes, why: str) -> None:
        """A peer does not take this process."""

    def node_lost(self) -> dict[str, Any]:
        """The connection to our node has closed: act on it; what is known of its end."""

    def show_unhandled(self) -> None:
        """There are failures in ``refs.unhandled.reports`` that nobody has looked at."""

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        """The constructor of an actor that we created has failed."""

    def log_lines(self, message: m.LogLines) -> None:
        """Output of our job's workers."""

    def stacks(self) -> str:
        """The stacks of this process's threads."""


@dataclass(frozen=True, slots=True)
class Work:
    """The executing half of a worker, as its owning half needs it.

    forget_owners(has_ended)         drop the leases of processes that have ended
    place_of(task)                   where a task is that was pushed here: (cause, about), None when it is not here
    cancel_inline(task, recursive)   end a task of ours that runs here inside the one that waits for it
    """

    forget_owners: Callable[[Callable[[bytes], bool]], None]
    place_of: Callable[[bytes], tuple[Any, dict[str, Any]] | None]
    cancel_inline: Callable[[Any, bool], None]
