"""Find rows by what a person types: an id, its beginning, its short form, or a name.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from zray.base import ids
from zray.cli.text import safe

CANDIDATES_MAX = 3  # candidates that an error names
Row = dict[str, Any]
JOB_DIGITS = 2 * ids.JOB_SIZE


def short_task(identifier: str) -> str:
    """The short form of a task's or object's id, as warnings and errors show it."""
    try:
        return ids.short(bytes.fromhex(identifier))
    except ValueError:
        return identifier


def short_actor(identifier: str) -> str:
    """An actor's id without its job, cut to eight digits."""
    return identifier[JOB_DIGITS:JOB_DIGITS + 8]


def short_node(identifier: str | None) -> str:
    return (identifier or "")[:8]


def short_job(identifier: str) -> str:
    """The number of a job, from its id."""
    try:
        return str(int(identifier, 16))
    except ValueError:
        return identifier


def short_worker(identifier: str) -> str:
    """The 16 digits that name the log files of a worker."""
    return identifier[:16]


@dataclass(frozen=True)
class Identity:
    """How rows of a kind are named: their id, its short form, and columns with further names."""

    noun: str
    key: str
    short: Callable[[str], str]
    names: tuple[str, ...] = ()
    skip: int = 0  # digits at the beginning that nobody types


IDENTITIES = {
    "actors": Identity("actor", "actor_id", short_actor, ("name", "class_name", "pid"), JOB_DIGITS),
    "tasks": Identity("task", "task_id", short_task, ("name",)),
    "objects": Identity("object", "object_id", short_task),
    "nodes": Identity("node", "node_id", short_node, ("node_name",)),
    "workers": Identity("worker", "worker_id", short_worker, ("pid",)),
    "jobs": Identity("job", "job_id", short_job, ("submission_id", "job_name")),
    "placement_groups": Identity("placement group", "placement_group_id", short_node, ("name",)),
}


def with_id(kind: str, rows: Sequence[Row], wanted: str) -> list[Row]:
    """The rows of the one thing that ``wanted`` names; several are attempts of one task, or holders of one object."""
    identity = IDENTITIES[kind]
    found = matching(kind, rows, wanted)
    if not found:
        by = "id or name" if identity.names else "id"
        raise click.ClickException(f"no {identity.noun} with {by} {safe(wanted)!r}: `zray list "
                                   f"{kind.replace('_', '-')}` shows them")
    if len(found) > 1:
        shown = ", ".join(f"{identity.short(one)}" + (f" ({safe(rows[0].get(identity.names[0]))})"
                                                      if identity.names and rows[0].get(identity.names[0]) else "")
                          for one, rows in list(found.items())[:CANDIDATES_MAX])
        more = ", ..." if len(found) > CANDIDATES_MAX else ""
        raise click.ClickException(f"{safe(wanted)!r} could be {len(found)} {identity.noun}s, since their ids begin "
                                   f"with it or they have this name: {shown}{more}. Give more digits of the id")
    return next(iter(found.values()))


def matching(kind: str, rows: Sequence[Row], wanted: str) -> dict[str, list[Row]]:
    """The rows by their id: those named exactly so, else those whose id or short form begins so."""
    if not wanted:
        return {}
    identity = IDENTITIES[kind]
    digits = wanted.lower()
    exact: dict[str, list[Row]] = {}
    begun: dict[str, list[Row]] = {}
    for row in rows:
        identifier = str(row[identity.key])
        short = identity.short(identifier)
        if digits in (identifier, short) or wanted in [str(row[name]) for name in identity.names if row.get(name)]:
            exact.setdefault(identifier, []).append(row)
        elif identifier.startswith(digits) or short.startswith(digits) and ":" not in digits or (
                identity.skip and identifier[identity.skip:].startswith(digits)):
            begun.setdefault(identifier, []).append(row)
    living = {one: named for one, named in exact.items() if not _has_ended(named[0])}
    return living or exact or begun


def _has_ended(row: Row) -> bool:
    """A name or pid means the one that lives, if earlier ones had it, too."""
    return row.get("state") in ("DEAD", "REMOVED") or row.get("is_alive") is False
