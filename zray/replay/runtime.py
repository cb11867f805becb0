"""The Runtime's interface as a run had it: what the code asks is compared with its record, and answered from there.

So nothing runs but the one run that is replayed.  A question that differs from the recorded one is a divergence.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, NoReturn

from zray.api import context
from zray.base import errors, ids
from zray.base.named_tuples import NamedTuple
from zray.base.plain_text import representation
from zray.core.recording import SHOWN_BYTES_MAX, map_shape
from zray.handles import refs
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.handles.remote import ActorHandle
from zray.recording.records import Asked, Piece, digest_of
from zray.replay.reading import CannotReplay, RecordedRun, Recording
from zray.values import serialization


class Divergence(NamedTuple):
    """Where a replay differs from its record first: in which run, what, and both values as text."""

    run: str
    what: str
    recorded: str
    now: str

    def __str__(self) -> str:
        return f"{self.run} diverges in {self.what}:\n  recorded: {self.recorded}\n  now:      {self.now}"


class Diverged(BaseException):
    """Ends a run at its divergence; no Exception, so that the run's own handlers let it pass."""

    def __init__(self, divergence: Divergence):
        super().__init__(str(divergence))
        self.divergence = divergence


class RecordEnds(BaseException):
    """Ends a run where its record ends: its process ended there."""


class Unanswered(BaseException):
    """Ends a run that asks what the recording cannot answer; the message says what, and what to do."""


class Scope:
    """The run that is replayed by the present thread or coroutine, and which of its questions are answered."""

    def __init__(self, run: RecordedRun, function: Any = None):
        self.run = run
        self.process = run.process
        self.in_order = True
        self.left = list(run.asked)
        self.fields: dict[str, Any] = {
            "task": run.started.task, "attempt": run.started.attempt, "task_name": run.started.name,
            "function": (run.started.task, function), "actor": run.started.actor, "actor_name": "", "meta": b"",
            "assigned": {}, "env": {}, "job": run.process.facts["job"], "life": run.started.life,
            "receiver": b"", "inside": None}

    def diverge(self, what: str, recorded: str, now: str) -> NoReturn:
        raise Diverged(Divergence(str(self.run), what, recorded, now))

    def end(self) -> None:
        """The run has ended: everything that was recorded must have been asked."""
        if self.left and self.run.ended is not None:
            self.diverge("what it asked of zray", f"it then called {described(self.left[0])}", "it has ended")


class ThreadsScope(Scope):
    """The threads that runs of one process have started: their calls have no order, so each takes an equal record."""

    def __init__(self, run: RecordedRun):
        super().__init__(run)
        self.left = run.process.outside
        self.in_order = False


_now: ContextVar[Scope | None] = ContextVar("zray_replay", default=None)


def enter(scope: Scope | None) -> Any:
    return _now.set(scope)


def leave(token: Any) -> None:
    _now.reset(token)


def present() -> Scope | None:
    return _now.get()


class _RunContext:
    """The context of the running code, as runtime_context reads it."""

    def __getattr__(self, name: str) -> Any:
        scope = _now.get()
        if name.startswith("__"):
            raise AttributeError(name)
        if scope is None:
            return _OF_THREADS.get(name)
        if name not in scope.fields:
            raise AttributeError(name)
        return scope.fields[name]


# What a thread of user code finds.
_OF_THREADS: dict[str, Any] = {"task": b"", "task_name": "", "attempt": 0, "function": (b"", None), "actor": b""}


class ReplayedObject:
    """The record behind an ObjectRef."""

    __slots__ = ("oid", "owner", "endpoint", "value", "contained")

    def __init__(self, oid: bytes, owner: bytes, endpoint: str):
        self.oid, self.owner, self.endpoint = oid, owner, endpoint
        self.value = None
        self.contained = None


class ReplayRuntime:
    """One a process, while a recording is replayed."""

    kind = "worker"
    closed = False
    executor = process = machine = None  # as in local mode
    env: dict[str, Any] = {}

    def __init__(self, recording: Recording, remake: Callable[[RecordedRun], None]):
        """``remake(run)`` runs a run for its values: it puts them into ``made``."""
        facts = recording.facts
        self.recording = recording
        self.context = _RunContext()
        self.made: dict[bytes, bytes] = {}  # payloads of objects that this replay has made
        self.incarnation, self.endpoint, self.node = facts["incarnation"], facts["endpoint"], facts["node"]
        self.job, self.namespace, self.node_info = facts["job"], facts["namespace"], facts["node_info"]
        self.pid = os.getpid()
        self.latest: RecordedRun | None = None  # the run that began last
        self.trouble = ""  # a thread of that run asked something unknown
        self._remake = remake
        self._remaking: set[bytes] = set()

    def install(self) -> None:
        """CannotReplay in a process that has a session."""
        if refs._hooks["runtime"] is not None:
            raise CannotReplay("this process is connected to a session: replay in another process, or call "
                               "shutdown() first")
        refs.dropped.clear()
        serialization.set_out_of_band_hook(lambda ref: None)
        refs._hooks["runtime"] = self

    def shutdown(self) -> None:
        """Called by user code too: the replay goes on."""

    @contextlib.contextmanager
    def as_session(self) -> Iterator[None]:
        """For the code of a driver: its ``init()`` finds this runtime."""
        plain = context.init
        context.init = lambda address=None, **options: context._context(self)
        try:
            yield
        finally:
            context.init = plain

    def uninstall(self) -> None:
        if refs._hooks["runtime"] is self:
            refs._hooks["runtime"] = None
            serialization.set_out_of_band_hook(None)
        self.forget()

    def forget(self) -> None:
        """Drop the objects of ended runs."""
        self.made.clear()
        refs.dropped.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unanswered(f"the run uses {name!r} of the runtime, which is not recorded: placement groups, key-values "
                         "and questions to other nodes are not replayed")

    # ------------------------------------------------------------ the record

    def _scope(self) -> Scope:
        scope = _now.get()
        if scope is not None:
            return scope
        if self.latest is None:
            raise Unanswered("zray is called while no run is replayed")
        return ThreadsScope(self.latest)

    def _take(self, kind: str, what: list[Any], in_order: bool = True) -> Asked:
        """The record of this question; raises the recorded error.  Coroutines of one call ask out of order."""
        scope = self._scope()
        in_order = in_order and scope.in_order
        for position, asked in enumerate(scope.left):
            if asked.kind == kind and same(asked.what, what):
                del scope.left[position]
                return asked
            if in_order:
                scope.diverge("what it asks of zray", described(asked),
                              described(Asked(0, kind, what, None, b""), _difference(asked, kind, what)))
        if scope.run.ended is None:
            raise RecordEnds
        if not scope.in_order:
            self.trouble = self.trouble or f"a thread that {scope.run} has started asks " + described(
                Asked(0, kind, what, None, b"")) + ", and no such thread asked that in the record"
            raise Unanswered(self.trouble)
        recorded = described(scope.left[0]) if scope.left else "nothing more"
        scope.diverge("what it asks of zray", recorded, described(Asked(0, kind, what, None, b"")))

    def _answer(self, kind: str, what: list[Any]) -> Any:
        asked = self._take(kind, what)
        if asked.error:
            raise pickle.loads(asked.error)
        return self._made(asked.answer)

    def _ref(self, oid: bytes) -> ObjectRef[Any]:
        facts = self._scope().process.facts
        return ObjectRef(oid, ReplayedObject(oid, facts["incarnation"], facts["endpoint"]))

    def _made(self, shape: Any) -> Any:
        """The counterpart of zray.core.recording.shape_of."""
        if shape is None:
            return None
        kind, what = shape[:2]
        if kind == "ref":
            return self._ref(what)
        if kind == "refs":
            return [self._ref(oid) for oid in what]
        if kind == "map":
            prefix, start, count = what
            return MapRefs(SimpleNamespace(prefix=prefix, start=start, count=count, remaining=0,
                                           fn=SimpleNamespace(name="map")))
        if kind == "stream":
            return ObjectRefGenerator(SimpleNamespace(task=SimpleNamespace(tid=what), oid=what + ids.RETURN_1,
                                                      ready=(), ended=False, consumed=0))
        actor, meta, life = what
        return ActorHandle._restore(actor, meta, self._ref(life) if life else None)

    # ------------------------------------------------------------ values

    def payload(self, oid: bytes) -> bytes:
        """The serialised value of an object; raises its error.  Unanswered when the recording has not got it."""
        made = self.made.get(oid)
        if made is not None:
            return made
        scope = _now.get()
        first = [scope.process] if scope is not None else []
        large: Piece | None = None
        for process in (*first, *self.recording.processes):
            piece = process.seen.get(oid)
            if piece is not None:
                if piece.failure is not None:
                    raise errors.from_failure(*piece.failure[1:])
                if piece.payload is not None:
                    return piece.payload
                large = piece
        maker = self.recording.maker(oid)
        if maker is not None and oid not in self._remaking:
            piece = maker.piece_of(oid)
            if piece is not None and piece.payload is not None:
                return piece.payload
            large = piece or large
            self._remaking.add(oid)
            try:
                self._remake(maker)
            finally:
                self._remaking.discard(oid)
            if oid in self.made:
                return self.made[oid]
        size = f", of {large.nbytes} bytes," if large is not None else ""
        raise Unanswered(f"the value of object {ids.short(oid)}{size} is not in the recording, where a process keeps "
                         "values up to record_value_bytes_max: record with a larger one")

    def restored(self, piece: Piece, what: str) -> bytes:
        """The payload of a recorded argument."""
        if piece.payload is not None:
            return piece.payload
        if piece.oid:
            return self.payload(piece.oid)
        raise Unanswered(f"the recording has only the digest of {what}: {piece.nbytes} bytes are more than "
                         "record_value_bytes_max. Record with a larger one")

    def _value(self, oid: bytes) -> Any:
        return serialization.loads(self.payload(oid))

    # ------------------------------------------------------------ calls of user code

    def submit(self, fn: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        return self._answer("submit", [fn.name, *given(args, kwargs, fn.function)])

    def create_actor(self, cls: Any, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        return self._answer("create", [cls.name, *given(args, kwargs, cls.cls)])

    def call(self, handle: Any, method: str, args: tuple, kwargs: dict[str, Any], options: Any) -> Any:
        return self._answer("call", [handle._actor, method, *given(args, kwargs, (handle, method))])

    def map(self, fn: Any, items: Any, options: Any, star: bool) -> Any:
        if not isinstance(items, (list, tuple, range)):
            items = list(items)
        asked = self._take("map", [fn.name, star])
        if asked.error:
            raise pickle.loads(asked.error)
        *shape, count, digest, shown = asked.answer
        if digest:
            payload = serialization.to_bytes(serialization.dumps(items if isinstance(items, range) else list(items)))
            if not same_value(digest, shown, digest_of(payload), payload):
                self._scope().diverge(f"the items of {fn.name}.map()", shown_value(shown, f"{count} items"),
                                      representation(items))
        elif len(items) != count:
            self._scope().diverge(f"the items of {fn.name}.map()", f"{count} items", f"{len(items)} items")
        return self._made(shape)

    def map_item(self, batch: Any, index: int) -> ObjectRef[Any]:
        return self._ref(ids.task_id(batch.prefix, batch.start + index) + ids.RETURN_1)

    def put(self, value: Any, copies: int = 1) -> ObjectRef[Any]:
        payload = serialization.to_bytes(serialization.dumps(value, "put value"))
        shown = payload if len(payload) <= SHOWN_BYTES_MAX else None
        ref: ObjectRef[Any] = self._answer("put", [digest_of(payload), len(payload), shown])
        self.made[ref._oid] = payload
        return ref

    def get_one(self, ref: ObjectRef, timeout: float | None = None) -> Any:
        return self.get([ref], timeout)[0]

    def get(self, wanted: Sequence[ObjectRef], timeout: float | None = None) -> list[Any]:
        asked = self._take("get", [[ref._oid for ref in wanted]])
        return self._values(asked)

    def _values(self, asked: Asked) -> list[Any]:
        if asked.error:
            raise pickle.loads(asked.error)
        return [self._value(oid) for oid in asked.what[0]]

    def get_map(self, wanted: Any, timeout: float | None = None) -> list[Any]:
        asked = self._take("get_map", map_shape(wanted))
        if asked.error:
            raise pickle.loads(asked.error)
        piece = Piece(*asked.answer)
        if piece.payload is not None:
            return serialization.loads(piece.payload)  # type: ignore[no-any-return]
        batch = wanted._batch
        return [self._value(ids.task_id(batch.prefix, batch.start + index) + ids.RETURN_1)
                for index in range(batch.count)]

    def wait(self, wanted: Sequence[ObjectRef], num_returns: int, timeout: float | None, fetch_local: bool = True
             ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        asked = self._take("wait", [[ref._oid for ref in wanted], num_returns])
        if asked.error:
            raise pickle.loads(asked.error)
        ready = set(asked.answer)
        return [ref for ref in wanted if ref._oid in ready], [ref for ref in wanted if ref._oid not in ready]

    def next_of_stream(self, stream: Any, timeout: float | None = None) -> Any:
        return self._item(stream, self._take("next", [stream.task.tid]))

    async def next_of_stream_async(self, stream: Any) -> Any:
        return self._item(stream, self._take("next", [stream.task.tid], in_order=False))

    def _item(self, stream: Any, asked: Asked) -> Any:
        if asked.error:
            raise pickle.loads(asked.error)
        stream.ended = asked.answer is None
        stream.consumed += not stream.ended
        return self._made(asked.answer)

    def completed_of_stream(self, stream: Any) -> Any:
        return self._answer("completed", [stream.task.tid])

    async def awaitable(self, ref: ObjectRef) -> Any:
        return self._values(self._take("get", [[ref._oid]], in_order=False))[0]

    def future(self, ref: ObjectRef) -> Future[Any]:
        future: Future[Any] = Future()
        self.fulfil(future, ref)
        return future

    def fulfil(self, future: Future[Any], ref: ObjectRef) -> None:
        try:
            value = self._value(ref._oid)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        self._answer("cancel", [ref._oid])

    def kill(self, actor: bytes, no_restart: bool) -> None:
        self._answer("kill", [actor])

    def lookup_actor(self, name: str, namespace: str | None) -> Any:
        asked = self._take("lookup", [name, namespace or ""])
        if asked.error:
            raise pickle.loads(asked.error)
        return tuple(asked.answer)

    def death_of(self, actor: bytes) -> Any:
        answer = self._take("death_of", [actor]).answer
        return pickle.loads(answer) if answer else None

    def query(self, what: str, *_: Any, **args: Any) -> Any:
        asked = self._take("query", [what])
        if asked.error:
            raise pickle.loads(asked.error)
        return serialization.loads(self.restored(Piece(*asked.answer), f"the answer to {what!r}"))

    def explain(self, ref: Any) -> str:
        return f"{ref!r}: it is replayed from a recording"

    # ------------------------------------------------------------ references

    def address_of(self, record: ReplayedObject) -> tuple[bytes, str]:
        return record.owner, record.endpoint

    def restore_ref(self, oid: bytes, owner: bytes, endpoint: str) -> ObjectRef[Any]:
        return ObjectRef(oid, ReplayedObject(oid, owner, endpoint))

    def knows(self, oid: bytes) -> bool:
        return False

    def find(self, oid: bytes) -> None:
        return None

    def travelling_env(self, env: dict[str, Any]) -> dict[str, Any]:
        return env


# ---------------------------------------------------------------- comparing

_GIVEN = ("submit", "create", "call")  # questions whose ``what`` ends in arguments: see given()


def given(args: tuple, kwargs: dict[str, Any], function: Any) -> list[Any]:
    """Arguments as zray.core.recording has them: digest, size, value if small, places and objects of references."""
    dumped, slots, deps = serialization.dump_args(args, kwargs, function)
    payload = serialization.to_bytes(dumped)
    return [digest_of(payload), len(payload), payload if len(payload) <= SHOWN_BYTES_MAX else None, list(slots),
            [ref._oid for ref in deps]]


def same(recorded: list[Any], now: list[Any]) -> bool:
    """Whether two questions are the same.  Values may differ in their pickles."""
    if recorded == now:
        return True
    if len(recorded) != len(now):
        return False
    at = next((place for place, each in enumerate(recorded) if type(each) is bytes and place + 2 < len(recorded)
               and type(recorded[place + 1]) is int and type(recorded[place + 2]) is not int), None)
    if at is None:
        return False
    rest = recorded[:at] + recorded[at + 3:], now[:at] + now[at + 3:]
    return rest[0] == rest[1] and same_value(recorded[at], recorded[at + 2], now[at], now[at + 2])


def same_value(digest: bytes, payload: bytes | None, digest_now: bytes, payload_now: bytes | None) -> bool:
    """Whether two serialised values are equal; those without a digest cannot be compared, and pass."""
    if digest == digest_now or not digest or not digest_now:
        return True
    if payload is None or payload_now is None:
        return False
    return equal(serialization.loads(payload), serialization.loads(payload_now))


def equal(one: Any, other: Any) -> bool:
    """Equality of values whose pickles differ, as those of sets may."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    try:
        return bool(one == other)
    except Exception:  # an array, or a user's __eq__ that raises: their pickles differ, and that counts
        return False


def shown_value(payload: bytes | None, instead: str) -> str:
    if payload is None:
        return instead
    try:
        return representation(serialization.loads(payload))
    except Exception as error:  # a user's class that is not there
        return f"{instead} ({type(error).__name__}: {error})"


def described(asked: Asked, hint: str = "") -> str:
    """A question in words."""
    what = asked.what
    if asked.kind in _GIVEN:
        *name, digest, nbytes, payload, slots, deps = what
        called = f"{name[0].hex()[:12]}.{name[1]}" if asked.kind == "call" else name[0]
        text = shown_value(payload, f"arguments of {nbytes} bytes, digest {digest.hex()}").replace(",)", ")")
        objects = f", references {', '.join(map(ids.short, deps))}" if deps else ""
        return f"{called}.remote{text if text.startswith('(') else f'({text})'}{objects}{hint}"
    if asked.kind == "put":
        return f"put({shown_value(what[2], f'{what[1]} bytes, digest {what[0].hex()}')}){hint}"
    if asked.kind in ("get", "wait"):
        more = f", num_returns={what[1]}" if asked.kind == "wait" else ""
        return f"{asked.kind}({', '.join(map(ids.short, what[0]))}{more}){hint}"
    shown = ", ".join(each.hex() if type(each) is bytes else repr(each) for each in what)
    return f"{asked.kind}({shown}){hint}"


def _difference(asked: Asked, kind: str, what: list[Any]) -> str:
    """A hint where both texts may read the same."""
    one, other = described(asked), described(Asked(0, kind, what, None, b""))
    return " (another value that reads the same)" if one == other else ""
