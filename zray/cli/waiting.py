"""Why something waits: ``zray explain`` and ``zray why``."""

from __future__ import annotations

from typing import Any

import click

from zray.base.causes import Cause
from zray.cli import story
from zray.cli.asking import CommandAsker, chosen, with_address
from zray.cli.commands import main
from zray.cli.gathering import asking
from zray.cli.showing import is_human, show, width_now, with_format
from zray.cli.tables import folded
from zray.cli.text import safe_lines

COMMAND_EXPLAIN_S = 2.0  # how long to wait for other processes' reasons


@main.command()
@click.argument("wanted", required=False, metavar="[ID|NAME]")
@with_address
@with_format
def explain(wanted: str | None, address: str, form: str) -> None:
    """Why everything that waits does: for a worker, for its turn in an actor, in get or wait.

    With an id or name: why that one does, as `zray why`.
    """
    address = chosen(address)
    if wanted is not None:
        _why(wanted, address, form)
        return
    with CommandAsker(address) as node:
        found = node.ask("leases")
        if not is_human(form):
            show(found["waiting"], form)
            return
        lines = _waiting_lines(found) + [line for row in found["blocked"] for line in _blocked_lines(node, row)]
        lines += [line for row in node.ask("jobs")["jobs"] if row["node_id"] and row["status"] == "RUNNING"
                  for line in _driver_lines(node, row)]
    _say(lines or ["nothing waits: no task for a worker or in an actor, and nobody in get or wait"])


@main.command()
@click.argument("wanted", metavar="ID|NAME")
@with_address
@with_format
def why(wanted: str, address: str, form: str) -> None:
    """Why one thing waits, or how it ended: a task, an actor, an object, a placement group.

    ID may be the beginning or the short form of an id, such as 6cb2197e:3, NAME that of an actor or function.
    """
    _why(wanted, chosen(address), form)


def _why(wanted: str, address: str, form: str) -> None:
    with CommandAsker(address) as node, asking(address) as client:
        found = story.tell(node, client, wanted, COMMAND_EXPLAIN_S)
    if is_human(form):
        _say(found["text"])
    else:
        show(found, form)


def _say(lines: list[str]) -> None:
    width = width_now()
    for line in lines:
        click.echo("\n".join(part for one in line.split("\n") for part in folded(safe_lines(one), width, "  ")))


def _waiting_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for row in found["waiting"]:
        what = f"actor {row['name']}" if row["actor"] else f"{row['want']} x {row['name']}()"
        lines.append(f"{what} of job {row['job']}: {Cause(row['cause']).text} ({row['detail']})")
    for row in found["queued"]:
        behind = f"; {row['behind']}() runs" if row["behind"] else ""
        lines.append(f"{row['count']} x {row['name']}() of job {row['job']}: {Cause.ACTOR_BUSY.text} "
                     f"(actor {row['actor'][8:16]}, pid {row['pid']}{behind})")
    return lines


def _blocked_lines(node: CommandAsker, row: dict[str, Any]) -> list[str]:
    """A task that waits in get or wait, with its worker's text."""
    return [f"{row['name']}() of job {row['job']}, pid {row['pid']}, waits in get or wait",
            *story.blocked_in(node, bytes.fromhex(row["worker"]), row["task_id"], row["name"], COMMAND_EXPLAIN_S)]


def _driver_lines(node: CommandAsker, row: dict[str, Any]) -> list[str]:
    """What a driver of this node waits for."""
    reasons = story.waits_of_driver(node, row["driver"], COMMAND_EXPLAIN_S)
    if not reasons:
        return []
    return [f"the driver of job {row['job_id']}, pid {row['driver_pid']}, waits in get or wait", *reasons]
