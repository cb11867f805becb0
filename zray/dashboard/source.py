"""Where the dashboard's data comes from: one small interface over the rows of zray.state.

    rows(kind, **limits)   rows of a kind of zray.state.kinds, with all columns
    ask(what, **args)      an answer of a node, for what is no row: leases, metrics, the control store, the store
    log(node, name, ...)   the last lines of a log file

A live session is :class:`LiveSource`.  :class:`RowsSource` has rows that somebody else keeps, such as those of a
session that has ended; what only a live session knows, it refuses with SourceError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from zray.node.running.ask import NodeClient
from zray.state.client import LIMIT_MAX, StateClient
from zray.state.errors import RayStateApiException, ServerUnavailable
from zray.state.kinds import KINDS

ASK_TIMEOUT_S = 10.0
LOG_PART_BYTES_MAX = 1 << 20


class SourceError(Exception):
    """The data cannot be had; the message is for the user."""


class FoundRows(NamedTuple):
    """Rows, what is missing of them in words, and the nodes that have ended with rows that only they kept."""

    rows: Sequence[dict[str, Any]]
    missing: Sequence[str] = ()
    gone: str = ""
    total: int = 0  # rows that there are, of which these are some; 0 for all


class DataSource(Protocol):
    """What the dashboard shows."""

    live: bool

    def rows(self, kind: str, limit: int = LIMIT_MAX, detail: bool = False, task: bytes = b"") -> FoundRows: ...

    def ask(self, what: str, **args: Any) -> dict[str, Any]: ...

    def log(self, node_id: str, name: str, lines: int) -> str: ...

    def logs(self, node_id: str) -> list[str]: ...

    def close(self) -> None: ...


class LiveSource:
    """A running session.  One thread at a time."""

    live = True

    def __init__(self, session_dir: str):
        self.session_dir = session_dir
        self._client: NodeClient | None = None

    @property
    def client(self) -> NodeClient:
        """The connection to the node; made anew after an error, since a node may have joined its cluster again."""
        if self._client is None:
            try:
                self._client = NodeClient(self.session_dir)
            except ConnectionError as error:
                raise SourceError(str(error)) from None
        return self._client

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def rows(self, kind: str, limit: int = LIMIT_MAX, detail: bool = False, task: bytes = b"") -> FoundRows:
        args: dict[str, Any] = {}
        if kind == "tasks":
            args = {"tasks": {"limit": limit, "detail": detail, **({"task": task} if task else {})}}
        elif kind == "objects":
            args = {"objects": {"limit": limit}}
        with self._reading() as client:
            found = client.rows(KINDS[kind], args)
            return FoundRows(found, tuple(dict.fromkeys(client.missing)), client.gone, client.totals.get(kind, 0))

    def ask(self, what: str, **args: Any) -> dict[str, Any]:
        with self._reading() as client:
            return client.ask(what, **args)

    def log(self, node_id: str, name: str, lines: int) -> str:
        with self._reading() as client:
            node = client.node_of(node_id, None)
            text, size = [], 0
            for piece in client.log(node, name, lines, False, 1.0):
                text.append(piece)
                size += len(piece)
                if size > LOG_PART_BYTES_MAX:
                    break
            return b"".join(text)[-LOG_PART_BYTES_MAX:].decode(errors="replace")

    def logs(self, node_id: str) -> list[str]:
        with self._reading() as client:
            return sorted(client.logs_on(client.node_of(node_id, None)))

    def _reading(self) -> _Reading:
        return _Reading(self)


class _Reading:
    """One question of the page; its errors are SourceError."""

    def __init__(self, source: LiveSource):
        self._source = source

    def __enter__(self) -> StateClient:
        return StateClient(timeout_s=ASK_TIMEOUT_S, asker=_Kept(self._source.client))

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (RayStateApiException, RuntimeError, OSError)) and not isinstance(error, SourceError):
            if isinstance(error, (ServerUnavailable, OSError)) or "did not answer" in str(error):
                self._source.close()
            raise SourceError(str(error)) from None


class _Kept:
    """The connection of a source, which outlives one question."""

    def __init__(self, client: NodeClient):
        self._client = client

    def ask(self, what: str, timeout_s: float, **args: Any) -> dict[str, Any]:
        return self._client.ask(what, timeout_s, **args)

    def close(self) -> None:
        """The source closes it."""


class RowsSource:
    """Rows by kind that were kept, as JSON has them; ``answers``: answers of nodes that were kept beside them."""

    live = False

    def __init__(self, rows: Mapping[str, Sequence[dict[str, Any]]],
                 answers: Mapping[str, dict[str, Any]] | None = None):
        unknown = sorted(set(rows) - set(KINDS))
        if unknown:
            raise SourceError(f"no kind of rows is named {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
        self._rows = rows
        self._answers = answers or {}

    def rows(self, kind: str, limit: int = LIMIT_MAX, detail: bool = False, task: bytes = b"") -> FoundRows:
        found = self._rows.get(kind, ())
        if task:
            found = [row for row in found if row["task_id"] == task.hex()]
        return FoundRows(found[:limit], total=len(found))

    def ask(self, what: str, **args: Any) -> dict[str, Any]:
        if what not in self._answers:
            raise SourceError(f"the session has ended, and nothing was kept of its {what}")
        return self._answers[what]

    def log(self, node_id: str, name: str, lines: int) -> str:
        raise SourceError("the session has ended: its logs are in its directory")

    def logs(self, node_id: str) -> list[str]:
        raise SourceError("the session has ended: its logs are in its directory")

    def close(self) -> None:
        """There is nothing to close."""
