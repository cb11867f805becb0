"""The port of the executor for its parts: maps, streams and actors do not import it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from zray.transport.loop import Loop
from zray.worker.actors.life import ActorLife
from zray.worker.debugging import WorkerDebugger
from zray.worker.events import EventRecorder
from zray.worker.machine import WorkerMachine
from zray.worker.ports import CoreProcess
from zray.worker.queue import QueuedChunk, ServedLease
from zray.worker.run.cancel import Interrupts
from zray.worker.run.functions import FunctionCache
from zray.worker.run.generators import Items
from zray.worker.run.invoke import CodePlace


class Generators(Protocol):
    """Runs generators; see zray.worker.run.streams."""

    def run(self, task: list[Any], value: Any, lease: ServedLease) -> Any: ...
    def run_async(self, task: list[Any], value: Any, lease: ServedLease) -> Awaitable[Any]: ...


class RunsRecorded(Protocol):
    """Records runs; see zray.worker.recording."""

    def around_item(self, function: Callable[..., Any], name: str, chunk: QueuedChunk, task_now: Callable[[], bytes]
                    ) -> Callable[..., Any]: ...
    def around_constructor(self, construct: Callable[..., Any], spec: dict[str, Any], life: ActorLife
                           ) -> Callable[..., Any]: ...
    def around_coroutine(self, result_of: Callable[..., Any]) -> Callable[..., Any]: ...


class RunsTraced(Protocol):
    """Makes spans of runs; see zray.worker.tracing."""

    def around_constructor(self, construct: Callable[..., Any], spec: dict[str, Any]) -> Callable[..., Any]: ...
    def around_coroutine(self, result_of: Callable[..., Any]) -> Callable[..., Any]: ...


class Execution(Protocol):
    """The executor, as maps, streams and actors use it."""

    rt: CoreProcess
    loop: Loop
    machine: WorkerMachine
    functions: FunctionCache
    table: dict[Any, Any]
    interrupts: Interrupts
    events: EventRecorder
    streams: Generators
    made: dict[bytes, Items]
    forked: bool
    recorder: RunsRecorded | None
    tracing: RunsTraced | None
    debugger: WorkerDebugger

    def stop(self, reason: str) -> None: ...
    def flush(self) -> None: ...
    def load(self, key: Any) -> tuple[Any, str]: ...
    def name_of(self, task: list[Any]) -> str: ...
    def run_one(self, task: list[Any], lease: ServedLease, interrupts: Any) -> Any: ...
    def run_inline(self, task: list[Any], frames: int = 0) -> Any: ...
    def closing(self, task: list[Any], result: Any, borrowed: list[Any]) -> Any: ...
    def failed(self, error: BaseException, task: list[Any], name: str, interrupts: Any = None) -> Any: ...
    def unfinished(self, task: list[Any], failure: list[Any]) -> Any: ...
    def where(self) -> CodePlace: ...
    def on_blocked(self) -> bool: ...
    def on_unblocked(self) -> None: ...
