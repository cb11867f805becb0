"""The ports of the executor: the core process below it, and the process around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from zray.base.config import Config
    from zray.owner.submitter import Submitter
    from zray.transport.loop import Loop
    from zray.wire.messages import ActorInit, JobSettings
    from zray.worker.queue import ServedLease


class CoreProcess(Protocol):
    """The Runtime, as a worker uses it."""

    loop: Loop
    marks: Any
    context: Any  # thread-local: the task that runs on this thread
    values: Any
    fetching: set[bytes]  # tasks that still read their arguments
    paused: dict[bytes, str]  # tasks that wait in the debugger

    @property
    def incarnation(self) -> bytes: ...
    @property
    def node(self) -> bytes: ...
    @property
    def session_dir(self) -> str: ...
    @property
    def config(self) -> Config: ...
    @property
    def submitter(self) -> Submitter: ...
    @property
    def node_info(self) -> dict[str, Any]: ...
    def attach_executor(self, executor: Any) -> None: ...
    def send(self, peer: bytes, message: Any) -> None: ...
    def fetch_function(self, key: bytes) -> Any: ...
    def resolve(self, values: Sequence[Any], outer: Any = None) -> list[Any]: ...
    def made_again(self, lost: Sequence[Any], owner: bytes, endpoint: str) -> Any: ...
    def encode_result(self, value: Any, task: bytes, index: int) -> Any: ...
    def still_held(self, records: Iterable[Any]) -> list[list[Any]]: ...
    def owner_busy(self) -> bool: ...
    def flush_metrics(self) -> None: ...
    def parents(self) -> list[list[bytes]]: ...
    def cancel_children(self, task: bytes) -> None: ...


class Surroundings(Protocol):
    """The process around the executor: its environment, and its end."""

    def on_job(self, message: JobSettings) -> None:
        """Called under the lock, before any task runs."""

    def on_lease(self, lease: ServedLease) -> None:
        """Called before the first task of a lease."""

    def on_actor(self, message: ActorInit) -> None:
        """Called before the constructor."""

    def end(self, code: int) -> NoReturn:
        """End the process, as user code asked."""
