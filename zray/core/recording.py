"""Records what user code asks of zray, and what it gets: put before the calls of one Runtime.

Only in a job that is recorded (the setting ``record``): then :func:`begin` replaces the calls of the Runtime by ones
that record.  Without it nothing of this is loaded, and calls cost what they cost.  zray.worker.recording adds the runs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from zray.base import errors, ray_names
from zray.base.version import __version__
from zray.core.runtime import Runtime
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.recording.files import RecordFile, RecordLimits
from zray.recording.records import RECORD_FORMAT, About, Asked, Definition, Piece, Seen, digest_of
from zray.values import serialization
from zray.wire.messages import CARRYING, FAILED, STORED

# The number of the run of this thread or coroutine; asyncio tasks that it makes inherit it, threads do not.
running: ContextVar[int] = ContextVar("zray_recorded_run", default=0)
SHOWN_BYTES_MAX = 4096  # of arguments that a run gives to others: the reader of a divergence sees that much

__tracebackhide__ = True  # pytest leaves these frames out of its reports


class _Packed(threading.local):
    """The arguments that this thread packed last."""

    payload: Any = None
    slots: Sequence[Any] = ()
    deps: Sequence[bytes] = ()


class RecordedCalls:
    """The records of one process."""

    def __init__(self, runtime: Runtime, file: RecordFile):
        self.runtime = runtime
        self.file = file
        self._seen: set[bytes] = set()
        self._defined: set[bytes] = set()
        self._packed = _Packed()

    # ------------------------------------------------------------ values

    def piece_of(self, wire: Any) -> Piece:
        """The piece of a wire value.  A stored one is read here; one that is lost has no digest."""
        if type(wire) is bytes:
            return self.piece(wire)
        kind = wire[0]
        if kind == FAILED:
            return Piece(b"", 0, None, b"", wire)
        if kind == CARRYING:
            return self.piece_of(wire[1])
        if kind != STORED:
            return Piece(b"", 0)
        try:
            return self.piece(self.runtime.values.payload(wire), wire[4])
        except errors.ObjectLostError:
            return Piece(b"", wire[2], None, wire[4])

    def piece(self, payload: bytes | memoryview, oid: bytes = b"", most: int | None = None) -> Piece:
        nbytes = len(payload)
        most = self.file.limits.value_bytes_max if most is None else most
        return Piece(digest_of(payload), nbytes, bytes(payload) if nbytes <= most else None, oid)

    def value(self, value: Any, most: int | None = None) -> Piece:
        """The piece of a Python value; a value that cannot be pickled has no digest."""
        try:
            return self.piece(serialization.to_bytes(serialization.dumps(value)), b"", most)
        except Exception:  # a user's __reduce__ may raise anything; the program itself will meet it where it matters
            return Piece(b"", 0)

    def see(self, record: Any) -> None:
        """User code has read this object."""
        wire = record.value
        if wire is not None and record.oid not in self._seen and not self.file.stopped:
            self._seen.add(record.oid)
            self.file.append(Seen(record.oid, self.piece_of(wire)))

    def define(self, key: bytes, name: str, blob: Callable[[], bytes]) -> None:
        """Record a function or class, once."""
        if key not in self._defined:
            self._defined.add(key)
            self.file.append(Definition(key, name, bytes(blob())))

    # ------------------------------------------------------------ calls

    def asked(self, kind: str, what: list[Any], answer: Any, error: BaseException | None = None) -> None:
        self.file.append(Asked(running.get(), kind, what, answer, b"" if error is None else pickled(error)))

    def _around(self, kind: str, call: Callable[..., Any], what: Callable[..., list[Any]],
                answer: Callable[[Any], Any], sees: Callable[..., Sequence[Any]] | None = None) -> Any:
        """``call``, recorded: ``what`` and ``sees`` (objects that it reads) are functions of its arguments."""
        def recorded(*args: Any, **kwargs: Any) -> Any:
            self._packed.payload, self._packed.slots, self._packed.deps = None, (), ()
            try:
                made = call(*args, **kwargs)
            except BaseException as error:
                if sees is not None:
                    for ref in sees(*args):
                        self.see(ref._record)
                self.asked(kind, what(*args), None, error)
                raise
            if sees is not None:
                for ref in sees(*args):
                    self.see(ref._record)
            self.asked(kind, what(*args), answer(made))
            return made

        return recorded

    def _around_async(self, kind: str, call: Callable[..., Any], what: Callable[[Any], list[Any]],
                      answer: Callable[[Any], Any], sees: bool) -> Any:
        async def recorded(one: Any) -> Any:
            try:
                made = await call(one)
            except BaseException as error:
                if sees:
                    self.see(one._record)
                self.asked(kind, what(one), None, error)
                raise
            if sees:
                self.see(one._record)
            self.asked(kind, what(one), answer(made))
            return made

        return recorded

    def install(self) -> None:
        """Replace the calls of the Runtime."""
        rt: Any = self.runtime
        around, around_async = self._around, self._around_async
        pack = rt.tasks.pack_args

        def pack_args(args: tuple, kwargs: dict[str, Any], function: Any) -> Any:
            packed = pack(args, kwargs, function)
            self._packed.payload, self._packed.slots = packed[0], packed[1] or ()
            self._packed.deps = [record.oid for record in packed[2] or ()]
            return packed

        rt.tasks.pack_args = pack_args
        rt.submit = around("submit", rt.submit, lambda fn, *_: [fn.name, *self._given()], shape_of)
        rt.map = around("map", rt.map, lambda fn, items, options, star: [fn.name, star], self._map)
        rt.create_actor = around("create", rt.create_actor, lambda cls, *_: [cls.name, *self._given()], shape_of)
        rt.call = around("call", rt.call, lambda handle, method, *_: [handle._actor, method, *self._given()], shape_of)
        rt.put = around("put", rt.put, lambda value, *_: list(self.value(value, SHOWN_BYTES_MAX)[:3]), shape_of)
        rt.get_one = around("get", rt.get_one, lambda ref, *_: [[ref._oid]], _nothing, lambda ref, *_: [ref])
        rt.get = around("get", rt.get, lambda refs, *_: [[ref._oid for ref in refs]], _nothing, lambda refs, *_: refs)
        rt.get_map = around("get_map", rt.get_map, lambda refs, *_: map_shape(refs), self.value)
        rt.wait = around("wait", rt.wait, lambda refs, count, *_: [[ref._oid for ref in refs], count],
                         lambda parts: [ref._oid for ref in parts[0]])
        rt.cancel = around("cancel", rt.cancel, lambda ref, *_: [ref._oid], _nothing)
        rt.kill = around("kill", rt.kill, lambda actor, *_: [actor], _nothing)
        rt.lookup_actor = around("lookup", rt.lookup_actor, lambda name, space: [name, space or ""], list)
        rt.death_of = around("death_of", rt.death_of, lambda actor: [actor],
                             lambda error: b"" if error is None else pickled(error))
        rt.query = around("query", rt.query, lambda what, *_: [what], self.value)
        rt.next_of_stream = around("next", rt.next_of_stream, lambda stream, *_: [stream.task.tid], shape_of)
        rt.completed_of_stream = around("completed", rt.completed_of_stream, lambda stream: [stream.task.tid], shape_of)
        rt.next_of_stream_async = around_async("next", rt.next_of_stream_async, lambda stream: [stream.task.tid],
                                               shape_of, False)
        rt.awaitable = around_async("get", rt.awaitable, lambda ref: [[ref._oid]], _nothing, True)
        rt.shutdown = self._closing(rt.shutdown)
        rt.future, rt.fulfil = self._future(rt.future), self._fulfil(rt.fulfil)

    def _closing(self, call: Callable[..., Any]) -> Any:
        def shutdown(*args: Any, **kwargs: Any) -> None:
            call(*args, **kwargs)
            self.file.close()

        return shutdown

    def _given(self) -> list[Any]:
        """The arguments of the call under way: digest, size, value if small, places and objects of references."""
        packed = self._packed
        wire = serialization.EMPTY_ARGS if packed.payload is None else packed.payload
        try:
            payload = self.runtime.values.payload(wire)
        except errors.ObjectLostError:
            payload = b""
        digest, nbytes, shown = self.piece(payload, b"", SHOWN_BYTES_MAX)[:3]
        return [digest, nbytes, shown, list(packed.slots), list(packed.deps)]

    def _map(self, made: Any) -> list[Any]:
        if not isinstance(made, MapRefs):
            return [*shape_of(made), len(made), b"", None]
        items = made._batch.items
        piece = self.value(items if isinstance(items, range) else list(items), SHOWN_BYTES_MAX)
        return [*shape_of(made), len(made), piece.digest, piece.payload]

    def _future(self, call: Callable[..., Any]) -> Any:
        def future(ref: ObjectRef) -> Any:
            made = call(ref)
            record = ref._record
            made.add_done_callback(lambda _: self.see(record))
            return made

        return future

    def _fulfil(self, call: Callable[..., Any]) -> Any:
        def fulfil(future: Any, ref: ObjectRef) -> None:
            record = ref._record
            future.add_done_callback(lambda _: self.see(record))
            call(future, ref)

        return fulfil


def _nothing(made: Any) -> None:
    return None


def map_shape(refs: Any) -> list[Any]:
    return [refs._batch.prefix, refs._batch.start, len(refs)]


def shape_of(made: Any) -> Any:
    """What user code got, by ids."""
    if made is None:
        return None
    if isinstance(made, ObjectRef):
        return ["ref", made._oid]
    if isinstance(made, MapRefs):
        return ["map", map_shape(made)]
    if isinstance(made, ObjectRefGenerator):
        return ["stream", made._stream.task.tid]
    if isinstance(made, list):
        return ["refs", [ref._oid for ref in made]]
    life = made._life_ref
    return ["actor", [made._actor, made._meta, life._oid if life is not None else b""]]


def pickled(error: BaseException) -> bytes:
    """An exception that user code got from zray."""
    from zray.values.pickler import cloud_dumps

    try:
        return cloud_dumps(error)
    except Exception as why:  # a user's exception may hold anything
        return cloud_dumps(errors.RaySystemError(f"{type(error).__name__}: {error} (its record is this text: {why})"))


def begin(runtime: Runtime, limits: RecordLimits) -> RecordedCalls:
    """Record this process from now on."""
    process = runtime.process
    file = RecordFile(limits, f"{process.kind}-{process.pid}-{process.incarnation.hex()}")
    main = sys.modules.get("__main__")
    is_module = getattr(main, "__spec__", None) is not None
    node = {name: str(process.node_info.get(name) or "") for name in ("NodeID", "NodeManagerAddress")}
    file.append(About({
        "format": RECORD_FORMAT, "zray": __version__, "python": process.python,
        "ray_version": ray_names.installed_version(), "kind": process.kind, "pid": process.pid,
        "incarnation": process.incarnation, "endpoint": process.endpoint, "node": process.node, "node_info": node,
        "job": process.job, "namespace": process.namespace, "started_ns": time.time_ns(), "cwd": os.getcwd(),
        "sys_path": list(sys.path), "script": "" if is_module else getattr(main, "__file__", "") or "",
        "argv": list(sys.argv), "hash_seed": os.environ.get("PYTHONHASHSEED", ""),
        "value_bytes_max": limits.value_bytes_max, "bytes_max": limits.bytes_max}))
    calls = RecordedCalls(runtime, file)
    calls.install()
    return calls
