"""The module under test: ``zray``, or Ray itself with ``ZRAY_TEST_TARGET=ray``, to check a test's idea of Ray.

Kept apart from conftest so that workers, which import it, do not import pytest.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

TARGET = os.environ.get("ZRAY_TEST_TARGET", "zray")
IS_ZRAY = TARGET == "zray"
DEADLINE_S = 30.0

ray: Any = importlib.import_module(TARGET)
exceptions: Any = importlib.import_module(f"{TARGET}.exceptions")


def until(condition: Callable[[], Any], what: str | Callable[[], str] = "", deadline_s: float = DEADLINE_S) -> Any:
    """Poll ``condition`` until it is true; its value is returned.  AssertionError when the deadline passes, with
    ``what`` was waited for, as it is then if that is a function."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {(what() if callable(what) else what) or condition}")
        time.sleep(0.005)


def waits_because(ref: Any, *words: str) -> dict[str, str]:
    """``explain`` comes to say all of ``words`` of what ``ref`` waits for, and so does GetTimeoutError; their texts."""
    said: dict[str, str] = {}

    def told() -> bool:
        said["explain"] = ray.explain(ref)
        try:
            ray.get(ref, timeout=0.05)
        except exceptions.GetTimeoutError as error:
            said["error"] = str(error)
        else:
            raise AssertionError(f"{ref} does not wait")
        return all(word in text for text in said.values() for word in words)

    until(told, lambda: f"both say {words}; they say {said}")
    return said


class Gate:
    """A file that remote code waits for: closed until ``open()``.  Works between any processes, and pickles.

    ``passed`` tells how many waiters have arrived, so a test knows that remote code is running.
    """

    def __init__(self, directory: os.PathLike[str] | str, name: str = "gate"):
        self.path = os.path.join(os.fspath(directory), name)
        os.makedirs(self.path + ".arrived", exist_ok=True)

    def wait(self, deadline_s: float = 60.0) -> None:
        """Called by remote code: arrive, then wait until the gate is open."""
        self.arrive()
        until(lambda: os.path.exists(self.path), "the gate opens", deadline_s)

    def arrive(self) -> None:
        with open(os.path.join(self.path + ".arrived", f"{os.getpid()}-{time.monotonic_ns()}"), "w"):
            pass

    @property
    def arrived(self) -> int:
        return len(os.listdir(self.path + ".arrived"))

    def wait_arrived(self, count: int = 1) -> None:
        until(lambda: self.arrived >= count, lambda: f"{count} arrive at the gate, {self.arrived} did")

    def open(self) -> None:
        with open(self.path, "w"):
            pass


class Counts:
    """What most actors of these tests do: count, and say where."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def where(self) -> tuple[str, int]:
        """Node id and pid."""
        return ray.get_runtime_context().get_node_id(), os.getpid()
