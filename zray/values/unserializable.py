"""The TypeError for a value that cannot be pickled: what was to be pickled, then a report of which part cannot be.

The first line and the frame of the report have Ray's words, which programs and their users look for.
"""

from __future__ import annotations

import re
from typing import Any

from zray.base.plain_text import representation
from zray.values.unpicklable import describe, find

WIDTH_MAX = 80  # characters of the lines of "="
MOVE_IT = "Make it inside the {kind}, or pass it along."


def put_value(value: Any, error: Exception, what: str = "put value") -> TypeError:
    """For ``put``, and with another ``what`` for a value of a task."""
    return TypeError(f"Could not serialize the {what} {representation(value)}:\n{report(value, 'value', error)}")


def argument(value: Any, label: str, called: str, error: Exception) -> TypeError:
    """For an argument of ``called``, ``module.qualname``; ``label`` is its name or position."""
    return TypeError(f"Could not serialize the argument {representation(value)} for a task or actor {called}:\n"
                     + report(value, f"argument {label}", error))


def definition(target: Any, name: str, error: Exception) -> TypeError:
    """For a function or the class of actors that refers to what cannot be pickled."""
    if isinstance(target, type):
        what, kind, name = "actor class", "class", f"{name}.__init__"
    else:
        what = kind = "function"
    return TypeError(f"Could not serialize the {what} {name}:\n"
                     + report(target, f"{kind} {target.__qualname__!r}" if hasattr(target, "__qualname__") else kind,
                              error, MOVE_IT.format(kind=kind)))


def report(value: Any, label: str, error: Exception, advice: str = "") -> str:
    """Which part of ``value`` cannot be pickled, and how it is reached from ``label``."""
    title = f"Checking Serializability of {representation(value)}"
    line = "=" * min(len(title), WIDTH_MAX)
    culprit = find(value)
    found, path = (culprit.value, culprit.path) if culprit is not None else (value, "")
    way = f"{label} -> {path.lstrip()} ({describe(found)})" if path else f"{label} ({describe(found)})"
    parent = representation(value) if path else None
    return "\n".join((
        line, title, line, f"!!! FAIL serialization: {type(error).__name__}: {error}", f"    Found: {way}", line,
        "Variable:", "", f"\tFailTuple({_last_name(path) or label} [obj={representation(found)}, parent={parent}])", "",
        "was found to be non-serializable. There may be others. " + (
            advice or "Leave it out, or give its class a __reduce__."), line))


def _last_name(path: str) -> str:
    """``lock`` of ``.layers[1]['lock']``, and of ``.run closure variable 'lock'``."""
    names = re.findall(r"'([^']+)'|\.(\w+)", path)
    return max(names[-1]) if names else path.strip()
