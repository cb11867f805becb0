"""The functions and classes that this worker has loaded, by key.

An owner sends a FunctionDef before the first push that needs it.  It is unpickled at the first call, so that its
imports run on the thread that calls it.  When there are too many definitions, the oldest are dropped; they can be
fetched again from the functions table of the control store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.errors import RuntimeEnvSetupError
from zray.values import serialization

LOADED_MAX = 4096
BLOBS_MAX = 4096


class FunctionCache:
    """key -> (callable, name).  ``table`` is read directly by the hot path."""

    def __init__(self, fetch: Callable[[bytes], Any]):
        self.table: dict[Any, tuple[Callable[..., Any], str]] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.names: dict[bytes, str] = {}  # key -> the owner's name of a function that is not loaded
        self.broken = ""  # why no task can run here: its runtime environment could not be set up
        self._fetch = fetch

    def define(self, key: bytes, blob: bytes, name: str = "") -> None:
        """Keep a definition (under the loop's lock, so it is not unpickled here)."""
        if key in self.table:
            return
        if len(self.blobs) >= BLOBS_MAX:
            del self.blobs[next(iter(self.blobs))]
        self.blobs[key] = blob
        if len(self.names) >= BLOBS_MAX:
            del self.names[next(iter(self.names))]
        self.names[key] = name

    def load(self, key: bytes) -> tuple[Callable[..., Any], str]:
        """Unpickle a definition; fetch it if no owner sent it.  Runs user code; not under the lock."""
        found = self.table.get(key)
        if found is not None:
            return found
        if self.broken:
            raise RuntimeEnvSetupError(f"The runtime environment could not be set up: {self.broken}")
        source: Any = self.blobs.pop(key, None)
        if source is None:
            source = self._fetch(key)
        if source is None:
            raise RuntimeError(f"the definition of function {key.hex()} is gone")
        function = serialization.load_function(source) if isinstance(source, bytes | memoryview) else source
        name = getattr(function, "__qualname__", None) or type(function).__name__
        if len(self.table) >= LOADED_MAX:
            del self.table[next(iter(self.table))]
        self.names.pop(key, None)
        self.table[key] = found = (function, name.rpartition(".")[2])
        return found
