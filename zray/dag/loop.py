"""The part of a compiled graph that runs in an actor: a thread that reads, calls methods, and writes, over and over.

    listen    where others connect to this actor; what it cannot do is found here
    start     connect to the readers, accept the writers, start the thread
    finish    wait for the thread, which ends when a channel closes

The driver calls these by ``__ray_call__``.  Other calls of the actor run beside the thread.
"""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Callable
from typing import Any

import zray as ray
from zray.base.errors import load_error
from zray.base.named_tuples import NamedTuple
from zray.channels.channel import ChannelClosed, Listener, Reader, Writer, connect
from zray.dag.plan import INPUT, PlannedCall, Value
from zray.handles.connection import connected
from zray.values import serialization

VALUE, ERROR = 0, 1  # kinds of messages
CONNECT_TIMEOUT_S = 30.0
_CONTEXT = ("actor", "actor_name", "job", "assigned")  # of the actor, for the thread


class Failed:
    """The error of an operation, in its place: operations that need it fail with it."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes):
        self.payload = payload


def value_of(received: Any) -> Any:
    """The value that was read; raises the error that stands in its place."""
    if isinstance(received, Failed):
        raise load_error(received.payload)
    return received


class ActorPlan(NamedTuple):
    """What one actor does."""

    graph: str
    operations: list[PlannedCall]
    reads: list[int]
    writes: dict[int, list[str]]  # value number: where its readers listen
    slots: int
    slot_bytes: int


class _Part:
    def __init__(self, listener: Listener):
        self.listener = listener
        self.thread: threading.Thread | None = None


_parts: dict[str, _Part] = {}  # of this process, by graph


def listen(actor: Any, graph: str, methods: list[str]) -> tuple[str, str, str]:
    """``(node id, path of the listener, why this actor cannot)``."""
    context = ray.get_runtime_context()
    for name in methods:
        function = inspect.unwrap(getattr(type(actor), name))
        if inspect.iscoroutinefunction(function):
            return "", "", f"{type(actor).__name__}.{name} is a coroutine method"
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            return "", "", f"{type(actor).__name__}.{name} is a generator"
    _forget_ended()
    listener = Listener(context.gcs_address)
    _parts[graph] = _Part(listener)
    return context.get_node_id(), listener.path, ""


def _forget_ended() -> None:
    """Delete the parts of graphs that ended without a teardown.

    A thread does not delete its own part: ``finish`` must find the thread as long as it lives.
    """
    for graph, part in list(_parts.items()):
        if part.thread is not None and not part.thread.is_alive():
            _parts.pop(graph, None)


def start(actor: Any, plan: ActorPlan) -> None:
    """Begin to run the operations of ``plan``."""
    part = _parts[plan.graph]
    channels = Channels.open(part.listener, plan.reads, plan.writes, plan.slots, plan.slot_bytes)
    source = connected().context
    copied = {name: getattr(source, name) for name in _CONTEXT if hasattr(source, name)}
    methods = [getattr(actor, operation.method) for operation in plan.operations]

    def run() -> None:
        vars(connected().context).update(copied)
        try:
            while True:
                execute(plan.operations, methods, channels)
        except ChannelClosed:
            pass  # the end of the graph, or of one of its processes; ours closes as well, and so on to the driver
        finally:
            channels.close()

    thread = threading.Thread(target=run, daemon=True, name="compiled-graph")
    thread.start()
    part.thread = thread  # not before: a thread that did not start looks as one that has ended


def finish(actor: Any, graph: str, timeout_s: float | None) -> bool:
    """Whether the thread has ended in time."""
    part = _parts.get(graph)
    if part is None:
        return True
    part.listener.close()
    if part.thread is not None:
        part.thread.join(timeout_s)
        if part.thread.is_alive():
            return False
    _parts.pop(graph, None)
    return True


class Channels:
    """The channels of one process."""

    def __init__(self, readers: dict[int, Reader], writers: dict[int, Writer]):
        self.readers = readers
        self.writers = writers

    @classmethod
    def open(cls, listener: Listener, reads: list[int], writes: dict[int, list[str]], slots: int, slot_bytes: int
             ) -> Channels:
        """Connect to the readers, and wait for the writers."""
        writers: dict[int, Writer] = {}
        try:
            for number, paths in writes.items():
                sockets: list[socket.socket] = []
                writers[number] = Writer(sockets, slots, slot_bytes)
                for path in paths:
                    sockets.append(connect(path, number))
            return cls(listener.accept(reads, slots, CONNECT_TIMEOUT_S), writers)
        except BaseException:
            for writer in writers.values():
                writer.close()
            raise
        finally:
            listener.close()

    def read(self, number: int, deadline: float | None = None) -> Any:
        """The next value of a channel, or its Failed."""
        payload, kind = self.readers[number].read(deadline)
        if kind == ERROR:
            return Failed(payload)
        try:
            return serialization.loads(payload)
        except Exception as error:  # code of the user's, such as a module that is missing here
            return Failed(serialization.dump_error(error, "reading a value"))

    def write(self, number: int, value: Any) -> None:
        """Write a value, or a Failed."""
        writer = self.writers[number]
        if isinstance(value, Failed):
            writer.write(len(value.payload), _filler(value.payload), ERROR)
            return
        serialized = serialization.dumps(value)
        if serialized.refs:
            raise TypeError("a value of a compiled graph has ObjectRefs or actor handles in it: they are not counted "
                            "in shared memory. Call get() first, or pass them to the actor by a call")
        writer.write(serialized.nbytes, lambda target: serialization.write_into(serialized, target), VALUE)

    def interrupt(self) -> None:
        """A read under way, in another thread, ends with ChannelClosed."""
        for reader in self.readers.values():
            reader.interrupt()

    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()
        for writer in self.writers.values():
            writer.close()


def _filler(data: bytes) -> Callable[[memoryview], None]:
    def fill(target: memoryview) -> None:
        target[:] = data
    return fill


def execute(operations: list[PlannedCall], methods: list[Callable[..., Any]], channels: Channels) -> None:
    """One execution of this actor's part.  ChannelClosed when the graph is over."""
    values: dict[int, Any] = {}
    for operation, method in zip(operations, methods):
        for argument in (*operation.args, *operation.kwargs.values()):
            if type(argument) is Value and argument.number not in values:
                values[argument.number] = channels.read(argument.number)
        result = _run(operation, method, values)
        for number, index in operation.outputs:
            value = result if index is None or isinstance(result, Failed) else result[index]
            values[number] = value
            if number in channels.writers:
                try:
                    channels.write(number, value)
                except ChannelClosed:
                    raise
                except Exception as error:  # it cannot be pickled
                    values[number] = Failed(serialization.dump_error(error, operation.method))
                    channels.write(number, values[number])


def _run(operation: PlannedCall, method: Callable[..., Any], values: dict[int, Any]) -> Any:
    """The result of the method, a tuple of its results when it has several, or Failed."""
    try:
        args = [_pick(argument, values) for argument in operation.args]
        kwargs = {name: _pick(argument, values) for name, argument in operation.kwargs.items()}
        for argument in (*args, *kwargs.values()):
            if type(argument) is Failed:
                return argument
        result = method(*args, **kwargs)
        count = len(operation.outputs)
        if operation.outputs[0][1] is None:
            return result
        parts = tuple(result)
        returns = max(index for _, index in operation.outputs if index is not None) + 1
        if len(parts) < max(count, returns):
            raise ValueError(f"{operation.method} returned {len(parts)} objects, and the graph uses {returns}")
        return parts
    except BaseException as error:  # also SystemExit: the thread goes on, and the caller gets the error
        payload = serialization.dump_error(error, operation.method)
        error.__traceback__ = None  # its frames hold the arguments
        return Failed(payload)


def _pick(argument: Any, values: dict[int, Any]) -> Any:
    if type(argument) is not Value:
        return argument
    value = values[argument.number]
    if argument.number != INPUT or type(value) is Failed:
        return value
    args, kwargs = value
    if argument.key is None:
        return args[0]
    return args[argument.key] if isinstance(argument.key, int) else kwargs[argument.key]
