"""Texts of user objects, for errors: short, and without errors of their own.  Names of their functions."""

from __future__ import annotations

import inspect
from typing import Any

REPR_MAX = 500  # characters


def representation(value: Any) -> str:
    """``repr(value)``, cut to REPR_MAX characters; never fails."""
    try:
        text = repr(value)
    except Exception:  # a __repr__ of the user's, maybe of an instance that is not complete
        text = object.__repr__(value)
    return text if len(text) <= REPR_MAX else text[:REPR_MAX - 3] + "..."


def full_name(definition: Any) -> str:
    """``module.qualname`` of a function or class."""
    name = getattr(definition, "__qualname__", None) or type(definition).__qualname__
    return f"{module_of(definition)}.{name}"


def module_of(definition: Any) -> str:
    """The module of a function or class; for a script, as in Ray, the name of its file and not "__main__"."""
    module = getattr(definition, "__module__", None) or type(definition).__module__
    if module != "__main__":
        return str(module)
    code = getattr(inspect.unwrap(definition), "__code__", None)
    if code is None:
        import sys

        file = getattr(sys.modules["__main__"], "__file__", None) or ""
    else:
        file = code.co_filename
    return inspect.getmodulename(file) or module
