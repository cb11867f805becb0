"""The report of a value that cannot be pickled: which part cannot be, and how it is reached.

``inspect_serializability`` prints it, and the TypeError of ``put``, of arguments, and of definitions has it after a
first line that says what was to be pickled.  First line and frame have Ray's words, which programs and their users
look for.
"""

from __future__ import annotations

import re
from typing import Any

from zray.base.plain_text import representation
from zray.values.unpicklable import Culprit, describe, find

WIDTH_MAX = 80  # characters of the lines of "="
MOVE_IT = "Make it inside the {kind}, or pass it along."


class FailureTuple:
    """An object that cannot be pickled, and how it is reached.

    obj      the object itself        path    the names on the way to it
    parent   the object that has it   name    the last of the names, "" for the inspected object itself
    error    what pickling it raises
    """

    def __init__(self, obj: Any, path: str | tuple[str, ...], parent: Any, error: str = ""):
        self.obj = obj
        self.path = (path,) if isinstance(path, str) else tuple(path)
        self.parent = parent
        self.error = error

    @property
    def name(self) -> str:
        return self.path[-1] if self.path else ""

    def __repr__(self) -> str:
        parent = representation(self.parent) if self.parent is not None else None
        return f"FailTuple({self.name} [obj={representation(self.obj)}, parent={parent}])"


def put_value(value: Any, error: Exception, what: str = "put value") -> TypeError:
    """For ``put``, and with another ``what`` for a value of a task."""
    return TypeError(f"Could not serialize the {what} {representation(value)}:\n{_report(value, 'value', error)}")


def argument(value: Any, label: str, called: str, error: Exception) -> TypeError:
    """For an argument of ``called``, ``module.qualname``; ``label`` is its name or position."""
    return TypeError(f"Could not serialize the argument {representation(value)} for a task or actor {called}:\n"
                     + _report(value, f"argument {label}", error))


def definition(target: Any, name: str, error: Exception) -> TypeError:
    """For a function or the class of actors that refers to what cannot be pickled."""
    if isinstance(target, type):
        what, kind, name = "actor class", "class", f"{name}.__init__"
    else:
        what = kind = "function"
    return TypeError(f"Could not serialize the {what} {name}:\n"
                     + _report(target, f"{kind} {target.__qualname__!r}" if hasattr(target, "__qualname__") else kind,
                               error, MOVE_IT.format(kind=kind)))


def _report(value: Any, label: str, error: Exception, advice: str = "") -> str:
    text = f"{type(error).__name__}: {error}"
    culprit = find(value) or Culprit("", value, text)  # a pickle that failed once may succeed now
    return f"{title(value)}\n{report(value, label, text, culprit, advice)}"


def title(value: Any) -> str:
    """The head of the report, in a frame."""
    line = _line(value)
    return f"{line}\n{_title(value)}\n{line}"


def report(value: Any, label: str, error: str, culprit: Culprit, advice: str = "") -> str:
    """Which part of ``value`` cannot be pickled, and how it is reached from ``label``."""
    way = (f"{label} -> {culprit.path.lstrip()} ({describe(culprit.value)})" if culprit.path
           else f"{label} ({describe(culprit.value)})")
    return "\n".join((
        f"!!! FAIL serialization: {error}", f"    Found: {way}", _line(value),
        "Variable:", "", f"\t{failure_of(culprit, label)}", "",
        "was found to be non-serializable. There may be others. " + (
            advice or "Leave it out, or give its class a __reduce__."), _line(value)))


def failure_of(culprit: Culprit, label: str) -> FailureTuple:
    """The culprit as users get it; ``label`` names the value itself."""
    return FailureTuple(culprit.value, tuple(map(_name, culprit.labels)) or (label,), culprit.parent, culprit.error)


def _title(value: Any) -> str:
    return f"Checking Serializability of {representation(value)}"


def _line(value: Any) -> str:
    return "=" * min(len(_title(value)), WIDTH_MAX)


def _name(label: str) -> str:
    """``lock`` of `` closure variable 'lock'`` and of ``.lock``; keys stay as they are."""
    quoted = re.fullmatch(r" (?:closure variable|global|default) '?(.*?)'?", label)
    return quoted[1] if quoted else label.lstrip(".")
