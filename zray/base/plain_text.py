"""Texts of user objects, for errors: short, and without errors of their own."""

from __future__ import annotations

from typing import Any

REPR_MAX = 500  # characters


def representation(value: Any) -> str:
    """``repr(value)``, cut to REPR_MAX characters; never fails."""
    try:
        text = repr(value)
    except Exception:  # a __repr__ of the user's, maybe of an instance that is not complete
        text = object.__repr__(value)
    return text if len(text) <= REPR_MAX else text[:REPR_MAX - 3] + "..."
