"""Digests by which a later run of a program knows a task again: of functions with their code, and of arguments.

Equal values have equal digests in every process, whatever the seed of string hashes:

    plain values, arrays       their pickle, without its memo; large buffers as they are
    sets                       the sorted digests of their items
    functions, classes         their name; and their code, unless it is of an installed package or of Python
    anything else              as its ``__reduce__`` says

The code of a function is its bytecode with constants, defaults, captured variables, and the globals that it reads.
Comments, line numbers and the path of the file do not count.
"""

from __future__ import annotations

import dis
import pickle
import sys
import sysconfig
from collections.abc import Callable
from enum import Enum
from functools import cache, partial
from hashlib import blake2b
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from zray.values.custom_serializers import custom

__all__ = ["DIGEST_BYTES", "NoDigest", "of_function", "of_value"]

DIGEST_BYTES = 16
_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))
# Parts of a class that Python fills in.
_GIVEN = frozenset(("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__",
                    "__static_attributes__"))
_CACHED = type(cache(len))
_STDLIB = tuple({sysconfig.get_paths()[name] + "/" for name in ("stdlib", "platstdlib")})
_OURS = __name__.partition(".")[0]

# Gives what stands for an object in a digest, None for an object that is like any other.  It may raise NoDigest.
Special = Callable[[Any], Any]


class NoDigest(Exception):
    """A value has no digest that a later run could find again; the text says why."""


def of_value(value: Any, special: Special) -> bytes:
    """The digest of a value.  NoDigest when it cannot be pickled, or contains itself."""
    return _Digest(special).value(value)


def of_function(function: Any, special: Special) -> bytes:
    """The digest of a function's code and of what it reads: NoDigest when it captures something without a digest."""
    return _Digest(special).whole(function)


class _Sink:
    """What a pickler writes to: a hash."""

    __slots__ = ("hash", "write")

    def __init__(self) -> None:
        self.hash = blake2b(digest_size=DIGEST_BYTES)
        self.write = self.hash.update


class _Pickler(pickle.Pickler):
    """Writes a pickle without a memo, so that equal parts need not be the same object."""

    def __init__(self, sink: _Sink, digest: _Digest):
        super().__init__(sink, 5, buffer_callback=self._buffer)
        self.fast = True
        self._sink = sink
        self._digest = digest

    def _buffer(self, buffer: pickle.PickleBuffer) -> None:
        raw = buffer.raw()
        self._sink.write(raw.nbytes.to_bytes(8, "little"))
        self._sink.write(raw)

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) in _ATOMS:
            return None
        return self._digest.stand_in(obj)


class _CustomPickler(_Pickler):
    """The same, while the program has serializers of its own (zray.util.register_serializer)."""

    def reducer_override(self, obj: Any) -> Any:
        pair = custom.get(type(obj))
        return NotImplemented if pair is None else (_rebuilt, (type(obj), pair[0](obj)))


def _rebuilt(cls: type, state: Any) -> None:
    """A name in the pickle of an object with a custom serializer."""


class _Digest:
    """One digest under way: the functions and classes that it has entered."""

    def __init__(self, special: Special):
        self.special = special
        self.entered: dict[int, tuple[int, Any]] = {}  # id -> (its number, the object, which must live)

    def value(self, value: Any) -> bytes:
        sink = _Sink()
        try:
            (_CustomPickler if custom else _Pickler)(sink, self).dump(value)
        except NoDigest:
            raise
        except Exception as error:  # a user's __reduce__ may raise anything
            is_circle = isinstance(error, RecursionError) or "cyclic" in str(error)  # words of pickle's fast mode
            raise NoDigest("a value cannot be pickled alike in every run: "
                           f"{'it contains itself' if is_circle else error}") from error
        return sink.hash.digest()

    def stand_in(self, obj: Any) -> Any:
        """What stands for an object in the pickle; None for the object itself."""
        kind = type(obj)
        if kind is set or kind is frozenset:
            return kind.__name__, sorted(of_value(item, self.special) for item in obj)
        if kind is FunctionType:
            return "function", self._function(obj)
        if kind is CodeType:
            return "code", self._code(obj)
        if kind is ModuleType:
            return "module", self._module(obj)
        if isinstance(obj, type):
            return "class", self._class(obj)
        inner = _inside(obj, kind)
        return self.special(obj) if inner is None else ("inside", _name(kind), inner)

    # ------------------------------------------------------------ code

    def whole(self, function: Any) -> bytes:
        """Of the function of a task."""
        if type(function) is FunctionType:
            return self._function(function)
        if isinstance(function, BuiltinFunctionType):
            return _hash("named", _name(function))
        return self.value(function)

    def _first(self, obj: Any) -> bytes | None:
        """None when the walk enters this definition for the first time; else what stands for it."""
        found = self.entered.get(id(obj))
        if found is not None:
            return _hash("again", found[0])
        self.entered[id(obj)] = len(self.entered), obj
        return None

    def _function(self, function: FunctionType) -> bytes:
        again = self._first(function)
        if again is not None:
            return again
        if not _is_users(function.__module__):
            return _hash("named", _name(function))
        parts: list[Any] = [_name(function), self._code(function.__code__)]
        parts += map(self._part, function.__defaults__ or ())
        for name, value in sorted((function.__kwdefaults__ or {}).items()):
            parts += name, self._part(value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                parts += name, self._part(cell.cell_contents)
            except ValueError:  # assigned after the function was made, and not yet
                parts += name, "empty"
        for name in sorted(_globals_of(function.__code__)):
            if name in function.__globals__:
                parts += name, self._part(function.__globals__[name])
        return _hash("function", *parts)

    def _part(self, value: Any) -> bytes:
        """Of something that code reads; what cannot be pickled counts by its type."""
        if type(value) in _ATOMS:
            return _hash(type(value).__name__, repr(value))
        if type(value) is MethodType:
            return _hash("method", self._part(value.__func__), self._part(value.__self__))
        if type(value) is partial:
            return _hash("partial", *map(self._part, (value.func, value.args, value.keywords)))
        try:
            return self.value(value)
        except NoDigest as error:
            if error.__cause__ is None:
                raise
            return _hash("opaque", _name(type(value)))

    def _code(self, code: CodeType) -> bytes:
        return _hash("code", code.co_code, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount,
                     code.co_flags, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
                     getattr(code, "co_exceptiontable", b""), *map(self._constant, code.co_consts))

    def _constant(self, constant: Any) -> Any:
        if type(constant) is CodeType:
            return self._code(constant)
        if type(constant) is frozenset:
            return _hash("frozenset", *sorted(map(repr, constant)))
        if type(constant) is tuple:
            return _hash("tuple", *map(self._constant, constant))
        return _hash(type(constant).__name__, repr(constant))

    def _module(self, module: ModuleType) -> bytes:
        """By its name; a module of the user's by its source too."""
        name = module.__name__
        if name != "__main__" and _is_users(name) and self._first(module) is None:
            try:
                with open(module.__file__ or "", "rb") as file:
                    return _hash("source", name, blake2b(file.read()).digest())
            except OSError:
                pass
        return _hash("named", name)

    def _class(self, cls: type) -> bytes:
        again = self._first(cls)
        if again is not None:
            return again
        if not _is_users(cls.__module__):
            return _hash("named", _name(cls))
        parts: list[Any] = [_name(cls), *map(self._class, cls.__bases__)]
        for name, value in sorted(vars(cls).items()):
            if name in _GIVEN:
                continue
            parts.append(name)
            if isinstance(value, (staticmethod, classmethod)):
                value = value.__func__
            if isinstance(value, property):
                parts += [self._function(one) for one in (value.fget, value.fset, value.fdel)
                          if type(one) is FunctionType]
            elif type(value) is FunctionType:
                parts.append(self._function(value))
            elif type(value) in _ATOMS:
                parts += type(value).__name__, repr(value)
            elif isinstance(value, Enum):
                parts.append(repr(value._value_))
        return _hash("class", *parts)


def _hash(*parts: Any) -> bytes:
    out = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        data = part if type(part) is bytes else repr(part).encode("utf-8", "surrogatepass")
        out.update(len(data).to_bytes(8, "little"))
        out.update(data)
    return out.digest()


def _inside(obj: Any, kind: type) -> Any:
    """The function inside a cached one, whose pickle is its name, or one of numba, whose pickle has a random number."""
    if kind is _CACHED:
        return obj.__wrapped__
    return getattr(obj, "py_func", None) if kind.__module__.partition(".")[0] == "numba" else None


def _name(definition: Any) -> str:
    return f"{getattr(definition, '__module__', '')}.{getattr(definition, '__qualname__', type(definition).__name__)}"


def _globals_of(code: CodeType) -> set[str]:
    """Names of the globals that code reads, with the code inside it."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if type(constant) is CodeType:
            found |= _globals_of(constant)
    return found


def _is_users(name: str | None) -> bool:
    """Whether a module is the user's own: neither Python's, nor installed, nor zray's."""
    if name is None:
        return True
    if name in ("__main__", "__mp_main__"):
        return True
    if name.partition(".")[0] == _OURS:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return False
    if {"site-packages", "dist-packages"} & set(PurePath(file).parts):
        return False
    return not file.startswith(_STDLIB)
