"""Why something waits: ``zray explain`` and ``zray stack``."""

from __future__ import annotations

import os
from typing import Any

import click

from zray.base.causes import Cause
from zray.cli.asking import CommandAsker, with_address
from zray.cli.commands import main
from zray.cli.finding import with_id
from zray.cli.showing import show, with_format

COMMAND_EXPLAIN_S = 2.0  # how long to wait for other processes' reasons


@main.command()
@click.argument("actor", required=False)
@with_address
@with_format
def explain(actor: str | None, address: str, form: str) -> None:
    """Why an actor (by id) or everything that waits does: for a worker, for its turn in an actor, in get or wait."""
    node = CommandAsker(address)
    try:
        if actor is not None:
            row = with_id("actors", node.ask("actors")["actors"], actor)[0]
            found = node.ask("explain", actor=bytes.fromhex(row["actor_id"]))
            if form != "default":
                show(found, form)
            else:
                detail = f" ({found['detail']})" if found["detail"] else ""
                what = f"actor {row['class_name']} ({row['actor_id'][:8]}) is {found['state']}"
                click.echo(f"{what}: {Cause(found['cause']).text}{detail}")
            return
        found = node.ask("leases")
        if form != "default":
            show(found["waiting"], form)
            return
        lines = _waiting_lines(found) + [line for row in found["blocked"] for line in _blocked_lines(node, row)]
        lines += [line for row in node.ask("jobs")["jobs"] if row["node_id"] and row["status"] == "RUNNING"
                  for line in _driver_lines(node, row)]
    finally:
        node.close()
    click.echo("\n".join(lines) or "nothing waits: no task for a worker or in an actor, and nobody in get or wait")


def _waiting_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for row in found["waiting"]:
        what = f"actor {row['name']}" if row["actor"] else f"{row['want']} x {row['name']}()"
        lines.append(f"{what} of job {row['job']}: {Cause(row['cause']).text} ({row['detail']})")
    for row in found["queued"]:
        behind = f"; {row['behind']}() runs" if row["behind"] else ""
        lines.append(f"{row['count']} x {row['name']}() of job {row['job']}: {Cause.ACTOR_BUSY.text} "
                     f"(actor {row['actor'][:8]}, pid {row['pid']}{behind})")
    return lines


def _blocked_lines(node: CommandAsker, row: dict[str, Any]) -> list[str]:
    """A task that waits in get or wait, with its worker's text."""
    from zray.core.waits.explaining import Asking, sentence

    task = bytes.fromhex(row["task_id"])
    about = {"task": row["task_id"], "name": row["name"], "ask": [bytes.fromhex(row["worker"]), task, ""]}
    found: list[Any] = [[task, Cause.RUNNING, about]]
    Asking(node, COMMAND_EXPLAIN_S).follow(found)
    return [f"{row['name']}() of job {row['job']}, pid {row['pid']}, waits in get or wait",
            *(sentence(oid, cause, about, "  ") for oid, cause, about in found[0][2].get("because", ()))]


def _driver_lines(node: CommandAsker, row: dict[str, Any]) -> list[str]:
    """What a driver of this node waits for."""
    from zray.core.waits.explaining import Asking, is_reason, sentence
    from zray.core.waits.why import WAITS

    answer = node.ask_process(f"d-{row['driver']}.sock", WAITS)
    found = [each for each in answer.found if is_reason(each)] if answer is not None else []
    if not found:
        return []
    Asking(node, COMMAND_EXPLAIN_S).follow(found)
    return [f"the driver of job {row['job_id']}, pid {row['driver_pid']}, waits in get or wait",
            *(sentence(oid, cause, about, "  ") for oid, cause, about in found)]


@main.command()
@click.argument("pid", type=int, required=False)
@with_address
def stack(pid: int | None, address: str) -> None:
    """Python stacks of the drivers and workers of a session, or of one process."""
    node = CommandAsker(address)
    try:
        sockets = sorted(name for name in os.listdir(node.handle.session_dir)
                         if name.endswith(".sock") and name[:2] in ("d-", "w-"))
        pids = {row["worker_id"][:16]: row["pid"] for row in node.ask("workers")["workers"]}
        pids |= {row["driver"]: row["driver_pid"] for row in node.ask("jobs")["jobs"] if row["status"] == "RUNNING"}
        sockets = [name for name in sockets if (name[2:18] in pids if pid is None else pids.get(name[2:18]) == pid)]
        if pid is not None and not sockets:
            known = ", ".join(map(str, sorted(filter(None, pids.values())))) or "none"
            raise click.ClickException(f"no driver or worker of this node has pid {pid}; these run: {known}")
        for name in sockets:
            answer = node.ask_process(name)
            kind = f"{'driver' if name.startswith('d-') else 'worker'}, pid {pids.get(name[2:18], '?')}"
            text = answer.text if answer else "no answer: it is gone, or C code holds its interpreter lock"
            click.echo(f"---- {name} ({kind})\n{text}")
    finally:
        node.close()
