"""The ports of a core process's machine: what it needs of its surroundings.  Pure.

The product passes the mesh, the store client, pickling and a Runtime; the simulator passes its own of each.  There are
no defaults: a composition that forgets a port fails when it is constructed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.base.ports import Ports
from zray.wire import messages as m


class Transport(Protocol):
    """The mesh.  ``send`` only appends to its outbox, which is sent once a turn; no method blocks."""

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
    """TCP connections with processes of other nodes: zray.core.reach."""

    def dial(self, peer: bytes, endpoint: str) -> None: ...
    def serve(self, request: m.BindTcp) -> str: ...


class Store(Protocol):
    """The objects of this process in its node's store: zray.core.stored.  All methods run under the lock."""

    def free(self, oid: bytes, value: Any, escaped: bool) -> None:
        """Free a stored value: the owner's last reference to it has gone."""

    def flush(self) -> None:
        """Once a turn: send the node the messages of this turn."""

    def relieve(self, bytes_max: int) -> int:
        """Move inline values to the store; returns the bytes of inline values at which to try again."""

    def node_lost(self, failure: list[Any]) -> None:
        """End pending requests to the store with this failure: the node cannot answer."""

    def pinned(self) -> dict[bytes, int]:
        """The objects that values of this process lie in, with their sizes in bytes."""


class Sites(Protocol):
    """Where user code made objects and actors: zray.core.creation_sites."""

    def of(self, oid: bytes) -> str: ...

    def add_to(self, what: str, rows: list[dict[str, Any]], limit: int, of: bytes) -> None: ...


class Shell(Protocol):
    """The process around the machine: time, messages for the user, user code."""

    def clock(self) -> float:
        """The present time, for events outside of a turn."""

    def later(self, seconds: float, action: Callable[[], None]) -> Any:
        """Call ``action()`` after ``seconds``, under the lock."""

    def retry_matches(self, wanted: Any, failure: list[Any]) -> bool:
        """Whether a task_error is one of the exception types in ``wanted``."""

    def refused(self, peer: bytes, why: str) -> None:
        """A peer refuses the connection of this process."""

    def node_lost(self) -> dict[str, Any]:
        """The connection to our node has closed: act on it, and return the known details of the node's end."""

    def show_unhandled(self) -> None:
        """Show the unhandled failures in ``refs.unhandled.reports``."""

    def actor_failed(self, actor: bytes, failure: list[Any]) -> None:
        """The constructor of an actor that we created has failed."""

    def log_lines(self, message: m.LogLines) -> None:
        """Show output of our job's workers."""

    def stacks(self) -> str:
        """The stacks of this process's threads."""

    def profile(self, question: bytes, answer: Callable[[str], None]) -> None:
        """Sample the stacks of this process's threads, then ``answer(text)``, under the lock: see
        zray.base.sampling."""


class Work(Ports):
    """The executing part of a worker, as its owning part uses it.

    forget_owners(is_gone)           drop the tasks that ended processes pushed
    place_of(task)                   where a pushed task is: (cause, about); None when it is not here
    cancel_inline(task, recursive)   end a task of ours that runs here inside the task that waits for it
    rows(state_of_running, most)     rows of the tasks that run or wait here
    """

    forget_owners: Callable[[Callable[[bytes], bool]], None]
    place_of: Callable[[bytes], tuple[Any, dict[str, Any]] | None]
    cancel_inline: Callable[[Any, bool], None]
    rows: Callable[[Callable[[bytes], str], int], list[dict[str, Any]]]
