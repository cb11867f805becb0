"""What the pages have read from the source a moment ago: two tabs on one page ask the cluster once.

A PageReader is used by one thread.  It keeps nothing longer than ``fresh_s``, but for the history of the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zray.dashboard.history import History
from zray.dashboard.source import DataSource, FoundRows

FRESH_S = 0.9
READ_TASKS_MAX = 2_000  # rows of tasks of one look: 2,000 rows cost a node some 10 ms
READ_ROWS_MAX = 10_000


class PageReader:
    """A source, and its answers of the last second."""

    def __init__(self, source: DataSource, clock: Callable[[], float] = time.monotonic):
        self.source = source
        self.history = History()
        self.missing: list[str] = []  # of the page that is being made, in words
        self._clock = clock
        self._kept: dict[Any, tuple[float, Any]] = {}

    def begin(self) -> None:
        """A page begins to be made."""
        now = self._clock()
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept[0] < FRESH_S}
        self.missing = []

    def _once(self, key: Any, read: Callable[[], Any]) -> Any:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._clock(), read()
        return kept[1]

    def rows(self, kind: str) -> FoundRows:
        limit = READ_TASKS_MAX if kind == "tasks" else READ_ROWS_MAX
        found: FoundRows = self._once(kind, lambda: self.source.rows(kind, limit, kind == "tasks"))
        self.missing += [text for text in found.missing if text not in self.missing]
        if found.gone:
            text = f"nodes have ended, and with them what only they kept of {kind}: {found.gone}"
            self.missing += [text] if text not in self.missing else []
        return found

    def ask(self, what: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._once(("ask", what), lambda: self.source.ask(what))
        if answer.get("missing"):
            self.missing.append(f"the nodes {', '.join(answer['missing'])} did not answer")
        return answer

    def sample(self) -> None:
        """Add the metrics of now to their history, at most once in ``FRESH_S``."""
        def read() -> None:
            self.history.add(time.time(), self.source.ask("metrics").get("metrics", ()))

        self._once("sample", read)
