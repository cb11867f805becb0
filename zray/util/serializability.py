"""Find the parts of an object that cannot be pickled."""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

from zray.values.unpicklable import find

__all__ = ["FailureTuple", "inspect_serializability"]

LINE_MAX = 80


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
        return f"FailTuple({self.name} [path={' -> '.join(self.path)}, obj={self.obj}, parent={self.parent}])"


def inspect_serializability(base_obj: Any, name: str | None = None, depth: int = 3,
                            print_file: TextIO | None = None) -> tuple[bool, set[FailureTuple]]:
    """``(True, set())`` when ``base_obj`` pickles, else ``(False, {FailureTuple})``; prints what it finds.

    It looks into closures, globals that functions use, classes, containers and attributes.  ``depth`` is accepted for
    Ray's sake: the search goes as deep as it must.
    """
    out = print_file or sys.stdout
    head = f"Checking Serializability of {base_obj}"
    line = "=" * min(len(head), LINE_MAX)
    print(line, head, line, sep="\n", file=out)
    culprit = find(base_obj)
    if culprit is None:
        return True, set()
    start = name or getattr(base_obj, "__qualname__", None) or type(base_obj).__qualname__
    found = FailureTuple(culprit.value, tuple(map(_name, culprit.labels)) or (name or start,), culprit.parent,
                         culprit.error)
    print(f"!!! FAIL serialization: {culprit.error}\n{start} -> {str(culprit).lstrip()}\n{line}\n"
          f"Variable:\n\n\t{found}\n\nwas found to be non-serializable. There may be others. Remove it, or make it "
          f"inside the function or class.\n{line}", file=out)
    return False, {found}


def _name(label: str) -> str:
    """``lock`` of `` closure variable 'lock'`` and of ``.lock``; keys stay as they are."""
    quoted = re.fullmatch(r" (?:closure variable|global|default) '?(.*?)'?", label)
    return quoted[1] if quoted else label.lstrip(".")
