"""Label selectors, ``label_selector={"zone": "in(a, b)"}``: checked, and as expressions of the scheduler.  Pure.

    "a"            the label is a           "in(a, b)"     it is one of these
    "!a"           it is not, or is absent  "!in(a, b)"    it is none of these, or is absent
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LABEL = r"[A-Za-z0-9](?:[\w.-]{0,61}[A-Za-z0-9])?"  # at most 63 characters
_NAME = re.compile(_LABEL, re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_LIST = re.compile(rf"(!?)in\(({_LABEL}(?:,\s*{_LABEL})*)\)", re.ASCII)
_ONE = re.compile(rf"!?{_LABEL}|", re.ASCII)


def problem(selector: Mapping[Any, Any]) -> str | None:
    """The first mistake in a selector; None where there is none."""
    for key, value in selector.items():
        if not isinstance(key, str) or not (isinstance(value, str) or value is None):
            return f"a label selector must be of type Dict[str, str], not {selector!r}"
        wrong = key_problem(key) or value_problem(value or "")
        if wrong:
            return wrong
    return None


def key_problem(key: str) -> str | None:
    prefix, slash, name = key.rpartition("/")
    if slash and prefix and not _PREFIX.fullmatch(prefix):
        return (f"Invalid label key prefix `{prefix}` in {key!r}: a prefix is a DNS name of at most 253 letters, "
                "digits, dashes and dots.")
    if not _NAME.fullmatch(name):
        return (f"Invalid label key name `{name}` in {key!r}: a name has at most 63 letters, digits, dashes, "
                "underscores and dots, and begins and ends with a letter or digit.")
    return None


def value_problem(value: str) -> str | None:
    if _ONE.fullmatch(value) or _LIST.fullmatch(value):
        return None
    return (f"Invalid label selector value `{value}`: it is a value, !value, in(value, value) or !in(value, value); a "
            "value has at most 63 letters, digits, dashes, underscores and dots, and begins and ends with a letter or "
            "digit.")


def expressions(selector: Mapping[str, str | None]) -> dict[str, Any]:
    """As expressions of zray.sched.policies.labels; call :func:`problem` before."""
    out: dict[str, Any] = {}
    for key, value in selector.items():
        found = _LIST.fullmatch(value or "")
        if found:
            out[key] = ["not_in" if found[1] else "in", *(one.strip() for one in found[2].split(","))]
        else:
            out[key] = value or ""
    return out
