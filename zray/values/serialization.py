"""Values to payloads and back.

A payload is either a plain pickle (first byte 0x80, the PROTO opcode), or, when the value has out-of-band buffers
(numpy arrays, large bytes),

    0x01 | 3 zero bytes | number of buffers u32 | length of the pickle u64 | (offset u64, length u64) a buffer
    | pickle | padding | buffers, each at a multiple of 64 bytes from the start of the payload

The layout is the same inline and in the store.  Arrays that :func:`loads` makes are read-only views of the payload:
nothing is copied, and the payload lives as long as the array does.

References inside a value are found by ``ObjectRef.__reduce__``, which calls :func:`on_ref`; on the way back
``zray.handles.refs.restore_ref`` calls :func:`restored`.  Both act on the ``dumps`` or ``loads`` that this thread is
in.

cloudpickle is imported at the first value that may contain a class or a function (zray.values.pickler).
"""

from __future__ import annotations

import os
import pickle
import struct
import threading
from collections.abc import Callable, Sequence
from pickle import PickleBuffer
from typing import Any

from zray.base import frames
from zray.base.plain_text import full_name
from zray.base.task_errors import RayTaskError, TaskErrorRecord, header, load_error
from zray.values.custom_serializers import custom

__all__ = [
    "EMPTY_ARGS", "NONE", "Serialized", "UnknownOwner", "collecting", "dump_args", "dump_error", "dump_function",
    "dumps", "dumps_by_name", "load_args", "load_error", "load_function", "loads", "on_ref", "pickle_of", "registering",
    "pieces", "restored", "set_out_of_band_hook", "set_ref_type", "size", "to_bytes", "write_into",
]

BUFFER_ALIGN = 64
OUT_OF_BAND_BYTES = 64 * 1024  # bytes objects of this size and more travel as a buffer: one copy less in each direction
PLAIN_ITEMS_MAX = 64  # larger containers are not searched for classes: cloudpickle costs less than looking
_HEAD = struct.Struct("<BxxxIQ")
_ENTRY = struct.Struct("<QQ")
_WITH_BUFFERS = 0x01

# Types that a plain pickle never gets wrong: no classes, no functions, no references inside.
_ATOMIC = frozenset((type(None), bool, int, float, complex, str, bytes))

_plain_dumps = pickle.dumps


class Serialized:
    """A value, pickled: the pickle, its out-of-band buffers, the references inside, the size of its payload."""

    __slots__ = ("buffers", "nbytes", "pickle", "refs")

    def __init__(self, data: bytes, buffers: Sequence[memoryview] = (), refs: Sequence[Any] = ()):
        self.pickle = data
        self.buffers = buffers
        self.refs = refs
        self.nbytes = len(data) if not buffers else _layout(data, buffers)[1]

    def __repr__(self) -> str:
        return f"Serialized({self.nbytes} bytes, {len(self.buffers)} buffers, {len(self.refs)} refs)"


NONE = _plain_dumps(None, 5)
_SERIALIZED_NONE = Serialized(NONE)
EMPTY_ARGS = _plain_dumps((), 5)
_SERIALIZED_EMPTY = Serialized(EMPTY_ARGS)


# ---------------------------------------------------------------- references inside values


class _Context(threading.local):
    refs: list[Any] | None = None  # references that this thread's dumps collects
    register: Callable[[Any], None] | None = None  # the callback of this thread's loads


_context = _Context()
_ref_type: type | None = None
_by_id_type: type | None = None  # of references without a known object so far
_out_of_band: Callable[[Any], None] | None = None


def set_ref_type(cls: type | None, by_id: type | None = None) -> None:
    """Set the types of top-level arguments that :func:`dump_args` resolves (zray.handles.refs)."""
    global _ref_type, _by_id_type
    _ref_type, _by_id_type = cls, by_id


def set_out_of_band_hook(hook: Callable[[Any], None] | None) -> None:
    """``hook(ref)`` is called for references pickled outside zray's own values: the owner must keep them for good."""
    global _out_of_band
    _out_of_band = hook


class UnknownOwner(ValueError):
    """A reference was made from an id that this process does not know."""


def on_ref(ref: Any) -> None:
    """An ObjectRef is being pickled: note it for the value under way, or pin it when no dumps collects."""
    refs = _context.refs
    if refs is not None:
        refs.append(ref)
    elif _out_of_band is not None:
        _out_of_band(ref)


def collecting() -> bool:
    """Whether this thread pickles a value that will hold the references in it."""
    return _context.refs is not None


def restored(ref: Any) -> None:
    """An ObjectRef came out of a pickle: hand it to the ``register_ref`` of the ``loads`` under way, if any."""
    if _context.register is not None:
        _context.register(ref)


def registering() -> bool:
    """Whether the ``loads`` under way on this thread has a ``register_ref``: it is of a task's arguments."""
    return _context.register is not None


# ---------------------------------------------------------------- dumps


class _LargeBytes:
    """Pickles as ``bytes(buffer)`` with the buffer out of band."""

    __slots__ = ("value",)

    def __init__(self, value: bytes):
        self.value = value

    def __reduce__(self):
        return bytes, (PickleBuffer(self.value),)


def dumps(value: Any, what: str = "value") -> Serialized:
    """Pickle any value; the TypeError says ``what`` it is, and names the path to the part that cannot be pickled."""
    kind = type(value)
    if kind in _ATOMIC:
        if value is None:
            return _SERIALIZED_NONE
        if kind is bytes and len(value) >= OUT_OF_BAND_BYTES:
            return _dump(_LargeBytes(value), plain=True)
        return Serialized(_plain_dumps(value, 5))
    try:
        return _dump(value, plain=_is_plain(value, kind))
    except UnknownOwner:
        raise
    except Exception as error:  # a user's __reduce__ may raise anything: the path helps
        from zray.values.unserializable import put_value

        raise put_value(value, error, what) from error


def _is_plain(value: Any, kind: type) -> bool:
    """A small container of atoms, or a numpy array of numbers: the C pickler alone is right, and much faster."""
    if kind is list or kind is tuple:
        return len(value) <= PLAIN_ITEMS_MAX and _ATOMIC.issuperset(map(type, value))
    if kind is dict:
        return (len(value) <= PLAIN_ITEMS_MAX and _ATOMIC.issuperset(map(type, value.values()))
                and _ATOMIC.issuperset(map(type, value)))
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy" and not value.dtype.hasobject and not custom


def _dump(value: Any, plain: bool = False) -> Serialized:
    views: list[PickleBuffer] = []
    context = _context
    outer = context.refs
    refs: list[Any] = []
    context.refs = refs
    try:
        # append returns None, so every buffer goes out of band, and all arrays come back alike: read-only.
        if plain:
            data = _plain_dumps(value, 5, buffer_callback=views.append)
        else:
            data = _cloud_dumps(value, views.append)
    finally:
        context.refs = outer
    return Serialized(data, [view.raw() for view in views] if views else (), refs)


def _cloud_dumps(value: Any, buffer_callback: Callable[[PickleBuffer], Any] | None) -> bytes:
    global _cloud_dumps
    from zray.values.pickler import cloud_dumps

    _cloud_dumps = cloud_dumps  # the first call imports cloudpickle, later ones go straight to it
    return cloud_dumps(value, buffer_callback)


# ---------------------------------------------------------------- payloads


def _layout(data: bytes, buffers: Sequence[memoryview]) -> tuple[list[int], int]:
    """Offsets of the buffers, and the size of the whole payload."""
    end = _HEAD.size + _ENTRY.size * len(buffers) + len(data)
    offsets = []
    for buffer in buffers:
        start = -(-end // BUFFER_ALIGN) * BUFFER_ALIGN
        offsets.append(start)
        end = start + buffer.nbytes
    return offsets, end


def size(value: Serialized) -> int:
    return value.nbytes


def to_bytes(value: Serialized) -> bytes:
    """The payload as one bytes object."""
    if not value.buffers:
        return value.pickle
    out = bytearray(value.nbytes)
    write_into(value, memoryview(out))
    return bytes(out)


def write_into(value: Serialized, target: memoryview) -> None:
    """Write the payload at the start of ``target``, which has at least ``value.nbytes`` bytes."""
    for at, piece in pieces(value):
        target[at : at + len(piece)] = piece


def pieces(value: Serialized) -> list[tuple[int, bytes | memoryview]]:
    """The payload as pieces, with their places in it.  Buffers of the value are among them, and are not copied."""
    data, buffers = value.pickle, value.buffers
    if not buffers:
        return [(0, data)]
    offsets, _ = _layout(data, buffers)
    entries = (_ENTRY.pack(offset, buffer.nbytes) for offset, buffer in zip(offsets, buffers, strict=True))
    head = _HEAD.pack(_WITH_BUFFERS, len(buffers), len(data)) + b"".join(entries) + data
    return [(0, head), *zip(offsets, buffers, strict=True)]


def loads(buffer: bytes | memoryview, register_ref: Callable[[Any], None] | None = None) -> Any:
    """The value of a payload.  ``register_ref`` is called with every ObjectRef found inside."""
    if len(buffer) == 4 and buffer == NONE:
        return None
    context = _context
    outer = context.register
    context.register = register_ref
    try:
        if buffer[0] != _WITH_BUFFERS:
            return pickle.loads(buffer)
        return _loads_with_buffers(buffer)
    finally:
        context.register = outer


def _aligned(payload: bytes) -> memoryview:
    """A copy of an inline payload that begins where its buffers are aligned: bytes themselves begin 32 bytes off."""
    from zray.base.os_linux import address_of  # only here: it loads ctypes, 4 ms of `import zray`

    room = bytearray(len(payload) + BUFFER_ALIGN)
    start = -address_of(room) % BUFFER_ALIGN
    room[start : start + len(payload)] = payload
    return memoryview(room)[start : start + len(payload)].toreadonly()


def _loads_with_buffers(buffer: bytes | memoryview) -> Any:
    view = _aligned(buffer) if type(buffer) is bytes else memoryview(buffer).toreadonly()
    _, count, length = _HEAD.unpack_from(view)
    start = _HEAD.size + count * _ENTRY.size
    total = view.nbytes
    if start + length > total:
        raise ValueError(f"a payload of {total} bytes is cut off: its pickle ends at {start + length}")
    buffers = []
    for offset, nbytes in _ENTRY.iter_unpack(view[_HEAD.size : start]):
        if offset + nbytes > total:
            raise ValueError(f"a payload of {total} bytes is cut off: a buffer ends at {offset + nbytes}")
        buffers.append(view[offset : offset + nbytes])
    return pickle.loads(view[start : start + length], buffers=buffers)


def pickle_of(payload: bytes | memoryview) -> bytes:
    """The pickle in a payload, without its buffers."""
    view = memoryview(payload)
    if view[0] != _WITH_BUFFERS:
        return bytes(view)
    _, count, length = _HEAD.unpack_from(view)
    start = _HEAD.size + count * _ENTRY.size
    return bytes(view[start : start + length])


def dumps_by_name(value: Any) -> bytes:
    """The payload of a value whose classes are found by their names alone, also those of ``__main__``."""
    return to_bytes(_dump(value, plain=True))


# ---------------------------------------------------------------- arguments


def dump_args(args: tuple, kwargs: dict[str, Any], function: Any = None,
              ) -> tuple[Serialized, Sequence[int | str], Sequence[Any]]:
    """Arguments of a call: ``(serialised, slots, deps)``.

    Top-level references are replaced by None; ``deps`` are these references and ``slots`` their places: positions and
    keyword names.  ``function`` only helps error messages to name the argument.  It may be a class that is called, or
    ``(handle, method)`` of an actor.
    """
    if not args and not kwargs:
        return _SERIALIZED_EMPTY, (), ()
    slots: list[int | str] = []
    deps: list[Any] = []
    atoms = plain = True
    ref_type, by_id = _ref_type, _by_id_type
    for position, value in enumerate(args):
        kind = type(value)
        if kind not in _ATOMIC:
            if kind is ref_type or kind is by_id:
                slots.append(position)
                deps.append(value)
            else:
                atoms = False
                plain = plain and _is_plain(value, kind)
    for name, value in kwargs.items():
        kind = type(value)
        if kind not in _ATOMIC:
            if kind is ref_type or kind is by_id:
                slots.append(name)
                deps.append(value)
            else:
                atoms = False
                plain = plain and _is_plain(value, kind)
    if slots:
        args, kwargs = _without_refs(args, kwargs, slots)
    # A tuple is positional arguments alone, a list is [positional, keywords].
    packed = [args, kwargs] if kwargs else args
    if atoms:
        return Serialized(_plain_dumps(packed, 5)), slots, deps
    try:
        return _dump(packed, plain), slots, deps
    except UnknownOwner:
        raise
    except Exception as error:  # see dumps
        raise _bad_argument(error, args, kwargs, function) from error


def _without_refs(args: tuple, kwargs: dict[str, Any], slots: Sequence[int | str]) -> tuple[tuple, dict[str, Any]]:
    positional = list(args)
    keywords = dict(kwargs)
    for slot in slots:
        if type(slot) is int:
            positional[slot] = None
        else:
            keywords[slot] = None  # type: ignore[index]
    return tuple(positional), keywords


def load_args(buffer: bytes | memoryview, slots: Sequence[int | str] = (), values: Sequence[Any] = (),
              register_ref: Callable[[Any], None] | None = None) -> tuple[Sequence[Any], dict[str, Any]]:
    """``(args, kwargs)`` of a call, with ``values`` put back into ``slots``."""
    if len(buffer) == len(EMPTY_ARGS) and buffer == EMPTY_ARGS:
        return (), {}
    packed = loads(buffer, register_ref)
    args, kwargs = (packed, {}) if type(packed) is tuple else packed
    if slots:
        args = list(args)
        for slot, value in zip(slots, values, strict=True):
            if type(slot) is int:
                args[slot] = value
            else:
                kwargs[slot] = value
    return args, kwargs


def _bad_argument(error: Exception, args: tuple, kwargs: dict[str, Any], function: Any) -> TypeError:
    """Find the argument that fails, and name it."""
    from zray.values import unserializable

    named: list[tuple[str, Any]] = [(f"{position}", value) for position, value in enumerate(args)]
    called = "of an unknown name"
    if type(function) is tuple:
        handle, method = function
        called = f"{handle._about.path}.{method}"
        known = [name for name, kind, _ in getattr(handle, method)._parameters.params if kind < 2]
        named = [(repr(known[i]) if i < len(known) else str(i), value) for i, value in enumerate(args)]
    elif function is not None:
        called = full_name(function)
        skipped = 0
        if isinstance(function, type):
            skipped, function, called = 1, function.__init__, f"{called}.__init__"  # type: ignore[misc]
        code = getattr(function, "__code__", None)
        names = getattr(code, "co_varnames", ())[skipped:]
        count = getattr(code, "co_argcount", 0) - skipped
        named = [(repr(names[i]) if i < count else str(i), value) for i, (_, value) in enumerate(named)]
    named += [(repr(name), value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            _dump(value)
        except Exception as inner:  # see dumps
            return unserializable.argument(value, name, called, inner)
    return unserializable.argument(args, "list", called, error)


# ---------------------------------------------------------------- functions


def dump_function(function: Callable | type) -> tuple[bytes, bytes]:
    """``(key, blob)`` of a function or class: the key (16 bytes) is a digest of the blob.

    A function or class that a worker cannot import (``__main__``, closures, modules off ``sys.path``) goes by value.
    """
    from zray.values.definitions import dump_definition

    context = _context
    outer, context.refs = context.refs, None  # references that a function captures are pinned: it may run at any time
    try:
        return dump_definition(function)
    finally:
        context.refs = outer


def load_function(blob: bytes | memoryview) -> Callable | type:
    return pickle.loads(blob)


# ---------------------------------------------------------------- errors


def dump_error(error: BaseException, function_name: str, ip: str = "127.0.0.1", actor: str = "", instance: str = "",
               ) -> bytes:
    """The ``task_error`` detail for an exception of user code; never fails.

    An error that already is a RayTaskError (a task it waited for failed) keeps the original cause, so ``except``
    clauses go on working.  One that was never raised is the error itself.  ``actor`` (hex id) and ``instance`` (its
    repr) are of an actor whose method raised.
    """
    cause: BaseException | None = error
    if isinstance(error, RayTaskError):
        cause = error.cause
    if isinstance(error, RayTaskError) and error.__traceback__ is None:
        text = str(error)
    else:
        text = _format(error, header(function_name, os.getpid(), ip, actor, instance))
    blob, why = _dump_cause(cause) if cause is not None else (None, "")
    return TaskErrorRecord(function_name, text.rstrip(), type(error).__qualname__, os.getpid(), ip, blob, why,
                           actor, instance).to_bytes()


def _dump_cause(cause: BaseException) -> tuple[bytes | None, str]:
    context = _context
    outer, context.refs = context.refs, None
    try:
        return _cloud_dumps(cause, None), ""
    except Exception as error:  # see dumps; the text goes without it
        return None, f"it cannot be pickled: {type(error).__name__}: {error}"
    finally:
        context.refs = outer


def _format(error: BaseException, first_line: str) -> str:
    try:
        return frames.format_error(error, error.__traceback__, first_line)
    except Exception as broken:  # a __str__ or __repr__ of the user's that raises
        return f"{first_line}\n{type(error).__qualname__} (its text cannot be shown: {type(broken).__name__}: {broken})"
