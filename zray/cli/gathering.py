"""Ask a session once for all that a table, `zray status` or `zray top` shows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from zray.cli.asking import chosen, described
from zray.cli.columns import NEED_WORK, Scene
from zray.cli.live import Unfinished
from zray.cli.text import duration
from zray.cli.usage import Usage, Usages
from zray.node.running import session as sessions
from zray.state import kept
from zray.state.client import LIMIT_MAX, StateClient, list_rows
from zray.state.errors import RayStateApiException
from zray.state.kinds import KINDS

LIST_TIMEOUT_S = 30.0
Row = dict[str, Any]


Question = tuple[str, dict[str, Any]]


class GatheringClient(StateClient):
    """Asks several questions at once and keeps their answers, so that rows of several kinds are of one time."""

    def __init__(self, address: str):
        super().__init__(address, LIST_TIMEOUT_S)
        self._kept: dict[str, dict[str, Any]] = {}

    def gather(self, kinds: Sequence[str], more: Sequence[Question] = (), **args: dict[str, Any]) -> None:
        """Ask now for all that the rows of these kinds need, and ``more``; answers of before are forgotten."""
        questions = [(view, {**fixed, **args.get(view, {})}) for kind in kinds
                     for view, fixed in KINDS[kind].views.items()] + list(more)
        once = {_key(*question): question for question in questions}
        self._kept = {}
        asker: Any = self._asker
        for key, answer in zip(once, asker.ask_all(list(once.values()), self._left_s()), strict=True):
            if answer is not None:
                self._kept[key] = answer

    def _answer(self, what: str, args: dict[str, Any]) -> dict[str, Any]:
        kept = self._kept.get(_key(what, args))
        return kept if kept is not None else super()._answer(what, args)


def _key(what: str, args: dict[str, Any]) -> str:
    return f"{what} {sorted(args.items())}"


@contextmanager
def asking(address: str, must_run: bool = False) -> Iterator[GatheringClient]:
    """A connection for several questions; what goes wrong is the error of a command.

    ``must_run``: a session that has ended, and has kept its rows, is an error.
    """
    where = chosen(address)
    if must_run and kept.is_ended(where):
        raise click.ClickException(sessions.why_none(where))
    try:
        with GatheringClient(where) as client:
            yield client
    except RayStateApiException as error:
        raise click.ClickException(str(error)) from None


def note_missing(client: StateClient) -> None:
    """Say on standard error what the answers lack."""
    for text in dict.fromkeys(client.missing):
        click.echo(f"note: not everything is shown: {text}", err=True)


def rows_of(kind: str, address: str, filters: list[tuple[str, str, str]], detail: bool) -> list[Any]:
    """Rows of a kind; what is wrong is the error of a command, and what is missing a note."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = list_rows(kind, chosen(address), filters, LIMIT_MAX, LIST_TIMEOUT_S, detail,
                              raise_on_missing_output=False)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    except RayStateApiException as error:
        raise click.ClickException(str(error)) from None
    for warning in caught:
        click.echo(f"note: {warning.message}", err=True)
    return found


def rows(client: StateClient, kind: str, **args: Any) -> list[Row]:
    """All rows of a kind with all columns, over a connection that is open already."""
    return client.rows(KINDS[kind], args)


def scene_for(kind: str, client: GatheringClient) -> Scene:
    """What the cells of a table of that kind need."""
    if kind not in NEED_WORK:
        return Scene(time.time())
    client.gather(("tasks", "actors", "workers"))
    work = Unfinished(rows(client, "tasks"))
    actors = {row["actor_id"]: row for row in rows(client, "actors")}
    workers = client.ask("workers", ended=True)["workers"] if kind == "workers" else []
    usage: dict[int, Usage] = {}
    if kind == "workers":
        jobs = client.ask("jobs")["jobs"]
        usage = Usages().look_twice(pids_here(workers, jobs))
    return Scene(time.time(), work, actors, {row["worker_id"]: row for row in workers}, usage)


def nodes_here() -> set[str]:
    """Ids of the nodes of this user on this machine."""
    return {session.node_id for session in sessions.live_sessions()}


def pids_here(workers: list[Row], jobs: list[Row]) -> list[int]:
    """Processes of workers and drivers that run on this machine."""
    here = nodes_here()
    drivers = [row["driver_pid"] for row in jobs if row["status"] == "RUNNING" and row["node_id"] in here]
    return [row["pid"] for row in workers if row["node_id"] in here and row["state"] != "ENDED"] + drivers


def described_at(client: StateClient) -> str:
    """The session that answers, for people."""
    here = {session.node_id: session for session in sessions.live_sessions()}
    first = client.ask("nodes")["nodes"][0]  # a node names itself first
    session = here.get(first["NodeID"])
    if session is None:
        return f"node {first['NodeID'][:8]}"
    return f"{described(session)}, up {duration(time.time() - session.started)}"
