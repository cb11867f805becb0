"""Errors of user code: the record that a worker sends, and the exception that ``get`` raises.

The text begins with a *header*, ``ray::f() (pid=12, ip=10.0.0.1)`` or, for the method of an actor,
``ray::A.f() (pid=12, ip=10.0.0.1, actor_id=<hex>, repr=<repr of the instance>)``.  Then come the frames of user code.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

from zray.base.exception_members import copy_members
from zray.base.named_tuples import NamedTuple
from zray.base.rebuilding import RayError, arrived, travelling

__tracebackhide__ = True  # pytest leaves these frames out of its reports


class TaskErrorRecord(NamedTuple):
    """A worker's report of an exception: text that always survives, and the pickled cause where there is one."""

    function: str
    traceback: str  # the whole text, header included
    type_name: str
    pid: int
    ip: str
    cause: bytes | None  # pickle of the user's exception
    why_no_cause: str = ""
    actor: str = ""  # hex id
    instance: str = ""  # repr of the actor's instance

    def to_bytes(self) -> bytes:
        return pickle.dumps(tuple(self), 5)

    @classmethod
    def from_bytes(cls, payload: bytes) -> TaskErrorRecord:
        return cls(*pickle.loads(payload))


def header(function: str, pid: int, ip: str, actor: str = "", instance: str = "") -> str:
    """The first line of the text of an error: where the code ran."""
    about = f", actor_id={actor}" if actor else ""
    if instance:
        about += f", repr={instance}"
    return f"ray::{function}() (pid={pid}, ip={ip}{about})"


class RayTaskError(RayError):
    """A task raised.  ``cause`` is the user's exception (None where it cannot be pickled); the text has the traceback.

    The exception from ``get`` is an instance of a class that also inherits from the type of the
    cause, so ``except ZeroDivisionError`` works, and attributes of the cause are reachable.
    """

    cause: BaseException | None = None
    function_name: str = ""
    traceback_str: str = ""
    proctitle: str = ""
    pid: int = 0
    ip: str = ""
    actor_repr: str | None = None
    _actor_id: str | None = None
    _record: bytes | None = None
    _rebuilt: tuple[Any, ...] | None = None  # of an error without a record: the function and arguments that make it

    def __init__(self, function_name: str = "", traceback_str: str = "", cause: BaseException | None = None,
                 proctitle: str | None = None, pid: int | None = None, ip: str | None = None,
                 actor_repr: str | None = None, actor_id: str | None = None):
        super().__init__(function_name, traceback_str)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or f"ray::{function_name}"
        self.pid = os.getpid() if pid is None else pid
        self.ip = ip or "127.0.0.1"
        if actor_id:
            self.actor_repr, self._actor_id = actor_repr, actor_id

    def as_instanceof_cause(self) -> RayTaskError:
        """This error as an instance of the cause's type too, or itself where Python does not allow such a type."""
        if self.cause is None or isinstance(self, type(self.cause)):
            return self
        return _dual(self)

    def __str__(self) -> str:
        return str(self.traceback_str)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.function_name!r}, {_last_line(self.traceback_str)!r})"

    def __reduce__(self):
        if self._record is not None:
            return load_error, (self._record,)
        if self._rebuilt is not None:
            return self._rebuilt
        cause = (travelling({"cause": self.cause}) or {})["cause"]
        return _rebuild_task_error, (self.function_name, self.traceback_str, cause, self.proctitle, self.pid, self.ip,
                                     self.actor_repr, self._actor_id)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        cause = self.__dict__.get("cause")
        if cause is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(cause, name)


def _rebuild_task_error(*args: Any) -> RayTaskError:
    return RayTaskError(*map(arrived, args)).as_instanceof_cause()


_dual_types: dict[type, type[RayTaskError] | None] = {}


def _dual_type(cause: type[BaseException]) -> type[RayTaskError] | None:
    """``RayTaskError(X)``: inherits from RayTaskError and X, or None where Python or X refuses."""
    if cause not in _dual_types:
        dual: type[RayTaskError] | None = None
        if not _ends_its_catcher(cause):
            name = f"RayTaskError({cause.__name__})"
            try:
                dual = type(name, (RayTaskError, cause), {"__module__": RayTaskError.__module__, "__qualname__": name})
            except Exception:  # a final class, a layout conflict, an __init_subclass__: all mean "not this one"
                dual = None
        _dual_types[cause] = dual
    return _dual_types[cause]


def _ends_its_catcher(cause: type[BaseException]) -> bool:
    """Whether the interpreter or asyncio acts on this type: a worker's must not end or cancel its caller."""
    return issubclass(cause, (SystemExit, KeyboardInterrupt)) or any(
        cls.__module__ == "asyncio.exceptions" and cls.__name__ == "CancelledError" for cls in cause.__mro__)


def _dual(error: RayTaskError) -> RayTaskError:
    assert error.cause is not None
    cls = _dual_type(type(error.cause))
    if cls is None:
        return error
    dual = _bare(cls, error.cause)
    if dual is None:
        return error
    dual.args = error.cause.args
    copy_members(error.cause, dual)
    # The cause's attributes too: a default of its class would hide them from __getattr__.
    dual.__dict__.update({**getattr(error.cause, "__dict__", {}), **error.__dict__})
    return dual


def _bare(cls: type[RayTaskError], cause: BaseException) -> RayTaskError | None:
    """An instance without ``__init__``; None when a ``__new__`` of the user's needs other arguments."""
    try:
        return type(cause).__new__(cls, *cause.args)  # type: ignore[call-overload,no-any-return]
    except Exception:
        if type(cause).__module__ != "builtins":
            return None
    try:
        return Exception.__new__(cls)  # CPython finds MemoryError.__new__ "not safe" for such a class
    except TypeError:
        return None  # a group of exceptions that are no Exceptions


def load_error(payload: bytes) -> RayTaskError:
    """A :class:`TaskErrorRecord` as the exception that ``get`` raises; works also without the user's type."""
    record = TaskErrorRecord.from_bytes(payload)
    cause: BaseException | None = None
    note = record.why_no_cause
    if record.cause is not None:
        try:
            loaded = pickle.loads(record.cause)
            if isinstance(loaded, BaseException):
                cause = loaded
            else:
                note = f"its pickle gave a {type(loaded).__name__}"
        except Exception as broken:  # user code: any failure to rebuild must leave the text
            note = f"{type(broken).__name__}: {broken}"
    text = record.traceback
    if cause is None and note:
        text += f"\n(the {record.type_name} itself could not be brought back: {note})"
    error = RayTaskError(record.function, text, cause, None, record.pid, record.ip, record.instance, record.actor)
    error._record = payload
    return error.as_instanceof_cause()


def _last_line(text: str) -> str:
    return text.rstrip().rsplit("\n", 1)[-1]
