"""Progress bars that work in tasks and actors: the driver shows the bars of all its workers, each on its own line.

    for item in tqdm_ray.tqdm(items, desc="loading"): ...

A worker reports the position of its bar as a line of its output, at most every ``flush_interval_s``.  The driver takes
these lines out of the output and moves the bar (with the tqdm package where it is installed, else as lines of text).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from zray.api.driver_log import BAR_MARK
from zray.handles.connection import current

__all__ = ["BarManager", "instance", "safe_print", "tqdm"]

FLUSH_S = 0.2  # half of the time after which people see a standstill
_BROKEN = (OSError, ValueError)  # what writing to a closed or broken stream raises


class tqdm:
    """The part of tqdm's interface that goes between processes.  ``position`` is accepted: the driver orders the bars.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, desc: str | None = None, total: int | None = None,
                 unit: str | None = None, position: int | None = None, flush_interval_s: float = FLUSH_S):
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        self._iterable = iterable
        self._desc = desc or ""
        self._total = total
        self._unit = unit or "it"
        self._flush_interval_s = flush_interval_s
        self._id = uuid.uuid4().hex
        self._n = 0
        self._closed = False
        self._shown_at = -float("inf")
        self.refresh()

    @property
    def n(self) -> int:
        """How far it is."""
        return self._n

    @property
    def total(self) -> int | None:
        """Where it ends; None when nobody knows."""
        return self._total

    def set_description(self, desc: str) -> None:
        """Change the text before the bar."""
        self._desc = desc
        self._show()

    def update(self, n: int = 1) -> None:
        """Go on by ``n``."""
        self._n += n
        self._show(now=self._n == self._total)

    def refresh(self) -> None:
        """Show the bar as it stands."""
        self._show(now=True)

    def close(self) -> None:
        """The bar has ended: it stays as it is."""
        if not self._closed:
            self._closed = True
            self._show(now=True)

    def _show(self, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self._shown_at < self._flush_interval_s:
            return
        self._shown_at = at
        state = {"id": self._id, "pid": os.getpid(), "desc": self._desc, "n": self._n, "total": self._total,
                 "unit": self._unit, "closed": self._closed}
        runtime = current()
        if runtime is not None and runtime.kind == "worker":
            sys.stderr.write(f"{BAR_MARK}{json.dumps(state)}\n")
            sys.stderr.flush()
        else:
            instance().move(state)

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("No iterable provided")
        try:
            for item in self._iterable:
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> tqdm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Unlocked:
    """In place of the lock that all bars of tqdm share.

    tqdm keeps that lock for ever when a stream refuses to be written, and child processes that fork have it too.  The
    loop of this process would wait for it.  BarManager has a lock of its own.
    """

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


class BarManager:
    """The bars that this process shows: its own and those of its workers.

    A stream that is closed or broken is left to the user.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bars: dict[str, Any] = {}

    def move(self, state: dict[str, Any]) -> None:
        """Make, move or close the bar of that id."""
        with self._lock, contextlib.suppress(*_BROKEN):
            bar = self._bars.get(state["id"])
            if bar is None:
                if state["closed"] and not state["n"]:
                    return
                bar = self._bars[state["id"]] = _bar(len(self._bars), state)
            if state["closed"]:
                del self._bars[state["id"]]
            bar.set_description_str(state["desc"], refresh=False)
            bar.total, bar.n = state["total"], state["n"]
            bar.refresh()
            if state["closed"]:
                bar.close()
                for position, other in enumerate(self._bars.values()):
                    other.clear()
                    other.pos = -position

    def hide_bars(self) -> None:
        """Make space for a line of text; :meth:`unhide_bars` draws them again."""
        with self._lock, contextlib.suppress(*_BROKEN):
            for bar in self._bars.values():
                bar.clear()

    def unhide_bars(self) -> None:
        """Show the bars again after other output."""
        with self._lock, contextlib.suppress(*_BROKEN):
            for bar in self._bars.values():
                bar.refresh()


class _Lines:
    """Bars without the tqdm package: a line of text for each move."""

    def __init__(self, **about: Any):
        self.desc, self.unit = about["desc"], about["unit"]
        self.n, self.total = 0, about["total"]
        self.pos = 0
        self._printed = ""

    def set_description_str(self, desc: str, refresh: bool = True) -> None:
        self.desc = desc

    def refresh(self) -> None:
        count = f"{self.n}/{'?' if self.total is None else self.total} {self.unit}\n"
        text = f"{self.desc}: {count}" if self.desc else count
        if text != self._printed and sys.stderr is not None:
            self._printed = text
            sys.stderr.write(text)
            sys.stderr.flush()

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass


def _bar(position: int, state: dict[str, Any]) -> Any:
    kind: Any = _Lines
    with contextlib.suppress(ImportError):
        from tqdm import tqdm as real

        # without tqdm's thread, which would outlive the session
        kind = type("Bar", (real,), {"monitor_interval": 0, "_lock": _Unlocked()})
    return kind(desc=state["desc"], total=state["total"], unit=state["unit"], position=position, leave=True)


_instance: BarManager | None = None


def instance() -> BarManager:
    """The BarManager of this process."""
    global _instance
    if _instance is None:
        _instance = BarManager()
    return _instance


def safe_print(*args: Any, **kwargs: Any) -> None:
    """``print`` that does not break the bars."""
    bars = instance()
    bars.hide_bars()
    try:
        print(*args, **kwargs)
    finally:
        bars.unhide_bars()
