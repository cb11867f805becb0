"""An exception of a simulated task."""

from __future__ import annotations


class Failure(Exception):
    """``kind`` as in a FAILED value, ``root`` what it all came from."""

    def __init__(self, kind: str, root: str) -> None:
        super().__init__(kind, root)
        self.kind, self.root = kind, root
