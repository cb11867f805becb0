"""Find the parts of an object that cannot be pickled."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from zray.values.unpicklable import Culprit, find

__all__ = ["inspect_serializability"]


def inspect_serializability(base_obj: Any, name: str | None = None, depth: int = 3,
                            print_file: TextIO | None = None) -> tuple[bool, set[Culprit]]:
    """``(True, set())`` when ``base_obj`` pickles, else ``(False, {culprit})``; prints the culprit.

    A culprit has ``path`` (how to reach it), ``value`` and ``error``.  ``depth`` is accepted for Ray's sake: the search
    goes as deep as it must.
    """
    out = print_file or sys.stdout
    label = name or getattr(base_obj, "__qualname__", None) or type(base_obj).__qualname__
    print(f"Checking Serializability of {label}", file=out)
    culprit = find(base_obj)
    if culprit is None:
        print("it can be serialized", file=out)
        return True, set()
    print(f"it cannot be serialized: {label} -> {str(culprit).lstrip()}\n  {culprit.error}", file=out)
    return False, {culprit}
