"""References in the hands of users: ObjectRef, the generator of a streaming task, the sequence of a ``map``.

A reference that goes away only appends its record to ``dropped``: finalisers run at any point, also in the middle
of a transition, so they must not touch the runtime's state.  The runtime empties the deque once a turn.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zray.base import ids
from zray.values import serialization

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

__tracebackhide__ = True  # pytest leaves these frames out of its reports

T = TypeVar("T")

dropped: deque[Any] = deque()
_hooks: dict[str, Any] = {"runtime": None, "wake": None}  # set by zray.core.runtime while one is there


def _no_wake() -> None:
    pass


class _Wake:
    """Called by finalisers while the loop sleeps; replaced by the runtime."""

    __slots__ = ("armed", "call")

    def __init__(self) -> None:
        self.armed = False
        self.call: Callable[[], None] = _no_wake


wake = _Wake()


def _runtime() -> Any:
    runtime = _hooks["runtime"]
    if runtime is None:
        raise RuntimeError("zray is not running: this reference belongs to a session that has ended "
                           "(zray.init() starts one)")
    return runtime


class ObjectRef(Generic[T]):
    """A reference to an object that may not exist yet; ``zray.get`` gives its value.

    It keeps the object alive.  It may be passed to tasks, stored inside other objects, awaited and hashed.

    ``ObjectRef(ref.binary())`` makes a reference from an id.  This process must hold another one when it is used.
    """

    __slots__ = ("_oid", "_record", "__weakref__")

    def __init__(self, oid: bytes, record: Any = None):
        self._oid = oid
        if record is not None:
            self._record = record
        else:
            _by_id(self)

    def __del__(self, _append=dropped.append, _wake=wake) -> None:
        _append(self._record)
        if _wake.armed:
            _wake.armed = False
            _wake.call()

    def binary(self) -> bytes:
        """Its id."""
        return self._oid

    def hex(self) -> str:
        """Its id in 56 hex digits."""
        return self._oid.hex()

    def task_id(self) -> ids.TaskID:
        """The task that makes the object; of ``put``, the one that stored it."""
        return ids.TaskID(self._oid[: ids.TASK_SIZE])

    def job_id(self) -> ids.JobID:
        """The job of that task."""
        return ids.JobID(self._oid[: ids.JOB_SIZE])

    def is_nil(self) -> bool:
        """Whether it is :meth:`nil`."""
        return self._oid == b"\xff" * ids.OBJECT_SIZE

    @classmethod
    def size(cls) -> int:
        """The width of its id in bytes."""
        return ids.OBJECT_SIZE

    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """As ``ObjectRef(binary)``."""
        return cls(binary)

    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef[Any]:
        """As ``ObjectRef(id)``, for the id in hex digits.  ValueError for other text."""
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A reference by an id that no object has."""
        return cls(ids.random_bytes(ids.OBJECT_SIZE))

    def owner_address(self) -> bytes:
        """The process that owns the object, as bytes that name it."""
        return self._owner

    def call_site(self) -> str:
        """Where this process made the reference; '' for one that it got, and without the setting
        ``record_ref_creation_sites``."""
        sites = getattr(getattr(_runtime(), "machine", None), "sites", None)
        return "" if sites is None else sites.of(self._oid)

    def tensor_transport(self) -> None:
        """None: objects travel by the object stores."""

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A reference to nothing: its id is all ones."""
        from zray.owner.records import Entry

        return cls(b"\xff" * ids.OBJECT_SIZE, Entry(b"\xff" * ids.OBJECT_SIZE))

    @property
    def _owner(self) -> bytes:
        owner = self._record.owner
        return owner if owner is not None else _runtime().incarnation

    def future(self) -> concurrent.futures.Future[T]:
        """A ``concurrent.futures.Future`` that ends with the value or the error."""
        return _runtime().future(self)

    def as_future(self, _internal: bool = False) -> asyncio.Future[T]:
        """An asyncio future of the running loop."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T]:
        return _runtime().awaitable(self).__await__()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ObjectRef) and other._oid == self._oid)

    def __hash__(self) -> int:
        return hash(self._oid)

    def __repr__(self) -> str:
        return f"ObjectRef({self._oid.hex()})"

    def __reduce__(self):
        serialization.on_ref(self)
        owner, endpoint = _runtime().address_of(self._record)
        return restore_ref, (self._oid, owner, endpoint)

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: dict) -> ObjectRef[T]:
        return self


_record: Any = ObjectRef.__dict__["_record"]  # the slot


class _UnknownRef(ObjectRef[T]):
    """A reference by id to an object that this process does not know; an ObjectRef from its first use on."""

    __slots__ = ()

    @property
    def _record(self) -> Any:  # type: ignore[override]
        runtime = _hooks["runtime"]
        record = runtime.find(self._oid) if runtime is not None else None
        if record is None:
            raise serialization.UnknownOwner(
                f"An application is trying to access an object whose owner is unknown ({self.hex()}): this process "
                "holds no reference to it. Pass the ObjectRef itself, for example inside a list, to the process that "
                "makes a reference from its id, and keep it there until then")
        self.__class__ = ObjectRef  # type: ignore[assignment]
        _record.__set__(self, record)
        return record

    def __del__(self, *_: Any) -> None:
        pass  # it holds nothing

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __reduce__(self):
        runtime = _hooks["runtime"]
        if serialization.collecting() or runtime is not None and runtime.knows(self._oid):
            self._record  # noqa: B018  (binds it, or raises)
            return super().__reduce__()
        return ObjectRef, (self._oid,)


serialization.set_ref_type(ObjectRef, _UnknownRef)


def _by_id(ref: ObjectRef[Any]) -> None:
    """``ref`` has an id only: bind its record now if the object is known here, else at its first use."""
    ref.__class__ = _UnknownRef
    ids.checked("ObjectRef", ref._oid, ids.OBJECT_SIZE)
    runtime = _hooks["runtime"]
    if runtime is not None and runtime.knows(ref._oid):
        ref._record  # noqa: B018


def restore_ref(oid: bytes, owner: bytes, endpoint: str) -> ObjectRef[Any]:
    """Unpickle a reference: this process becomes a holder of the object."""
    ref = _runtime().restore_ref(oid, owner, endpoint)
    serialization.restored(ref)
    return ref


class ObjectRefGenerator(Generic[T]):
    """The references that a streaming generator task yields, in order, as they come.

    Iterates synchronously and asynchronously; an error of the generator is the last reference.
    """

    __slots__ = ("_stream", "__weakref__")

    def __init__(self, stream: Any):
        self._stream = stream

    def __del__(self, _append=dropped.append) -> None:
        _append(self._stream)

    def __iter__(self) -> ObjectRefGenerator[T]:
        return self

    def __next__(self) -> ObjectRef[T]:
        ref = _runtime().next_of_stream(self._stream, None)
        if ref is None:
            raise StopIteration
        return ref

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        ref = await _runtime().next_of_stream_async(self._stream)
        if ref is None:
            raise StopAsyncIteration
        return ref

    @property
    def _record(self) -> Any:
        return self._stream

    @property
    def _oid(self) -> bytes:
        return self._stream.oid

    def completed(self) -> ObjectRef[Any]:
        """A reference that is ready when the generator has ended; its value is None, or ``get`` raises its error."""
        return _runtime().completed_of_stream(self._stream)

    def is_finished(self) -> bool:
        """Whether the generator has ended and every item has been taken."""
        return self._stream.ended and not self._stream.ready

    def next_ready(self) -> bool:
        """Whether ``next`` gives a reference without waiting."""
        return bool(self._stream.ready)

    def task_id(self) -> ids.TaskID:
        """The task that yields them."""
        return ids.TaskID(self._stream.task.tid)

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.task.tid.hex()}, taken={self._stream.consumed})"

    def __reduce__(self):
        raise TypeError("an ObjectRefGenerator cannot be pickled: pass the references it yields instead")


class DynamicObjectRefGenerator(Generic[T]):
    """The value of a task with ``num_returns="dynamic"``: the references to its items.  It can be pickled.

    As in Ray, iterating takes the references out, so that each item may be freed when the caller is done with it;
    ``get`` on the task's reference gives all of them again.
    """

    __slots__ = ("_refs",)

    def __init__(self, refs: Iterable[ObjectRef[T]]):
        self._refs = deque(refs)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self)} references)"

    def __reduce__(self):
        return DynamicObjectRefGenerator, (list(self._refs),)


class MapRefs(Generic[T]):
    """The references of one ``f.map``: a lazy sequence, each item its own task.

    ``zray.get(refs)`` gives all values in order without making a reference per item.
    """

    __slots__ = ("_batch", "__weakref__")

    def __init__(self, batch: Any):
        self._batch = batch

    def __del__(self, _append=dropped.append) -> None:
        _append(self._batch)

    def __len__(self) -> int:
        return self._batch.count

    def __getitem__(self, index: Any) -> Any:
        count = self._batch.count
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(count))]
        if index < 0:
            index += count
        if not 0 <= index < count:
            raise IndexError(f"index {index} of {count} references")
        return _runtime().map_item(self._batch, index)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        for index in range(self._batch.count):
            yield self[index]

    def done(self) -> int:
        """How many of the tasks have ended."""
        return self._batch.count - self._batch.remaining

    def __repr__(self) -> str:
        return f"MapRefs({self._batch.fn.name}, {self.done()} of {len(self)} done)"

    def __reduce__(self):
        return list, (list(self),)


class RefList(list):
    """The not-ready list that ``wait`` returns: a list, and the group that is still registered for it.

    A change of the list removes the group (``None``), and so does passing the list to a ``wait``,
    since two threads may share it: the next ``wait`` then looks at every reference again.
    """

    __slots__ = ("group",)
    group: Any

    def __reduce__(self):
        return list, (list(self),)


def _edits(name: str) -> Callable[..., Any]:
    plain = getattr(list, name)

    @functools.wraps(plain)
    def edit(self: RefList, *args: Any, **kwargs: Any) -> Any:
        self.group = None
        return plain(self, *args, **kwargs)

    return edit


for _name in ("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "__setitem__", "__delitem__",
              "__iadd__", "__imul__"):
    setattr(RefList, _name, _edits(_name))
