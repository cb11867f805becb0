"""Find the parts of an object that cannot be pickled."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from zray.values.unpicklable import find
from zray.values.unserializable import MOVE_IT, FailureTuple, failure_of, report, title

__all__ = ["FailureTuple", "inspect_serializability"]


def inspect_serializability(base_obj: Any, name: str | None = None, depth: int = 3,
                            print_file: TextIO | None = None) -> tuple[bool, set[FailureTuple]]:
    """``(True, set())`` when ``base_obj`` pickles, else ``(False, {FailureTuple})``; prints what it finds.

    It looks into closures, globals that functions use, classes, containers and attributes.  ``depth`` is accepted for
    Ray's sake: the search goes as deep as it must.
    """
    out = print_file or sys.stdout
    print(title(base_obj), file=out)
    culprit = find(base_obj)
    if culprit is None:
        return True, set()
    label = name or getattr(base_obj, "__qualname__", None) or type(base_obj).__qualname__
    print(report(base_obj, label, culprit.error, culprit, MOVE_IT.format(kind="function or class")), file=out)
    return False, {failure_of(culprit, label)}
