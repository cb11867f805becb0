"""Rows of one kind: ``zray list``, ``get``, ``summary``, ``memory``."""

from __future__ import annotations

from typing import Any

import click

from zray.base.errors import did_you_mean
from zray.cli.asking import ask, with_address
from zray.cli.commands import main
from zray.cli.showing import show, table, with_format

# The columns of a table without --detail.
COLUMNS = {
    "nodes": ("NodeID", "State", "NodeName", "NodeManagerAddress", "NodeManagerPort", "pid", "Resources",
              "DeathReason"),
    "tasks": ("task_id", "name", "state", "job_id", "pid", "attempt", "count", "seconds", "detail"),
    "actors": ("actor_id", "class_name", "state", "name", "ray_namespace", "job_id", "pid", "num_restarts",
               "required_resources", "death_cause"),
}
# The names that a filter may have when there is no row.
KEYS = {
    "nodes": COLUMNS["nodes"], "tasks": (*COLUMNS["tasks"], "start_time", "end_time"), "actors": COLUMNS["actors"],
    "workers": ("worker_id", "pid", "state", "job_id", "actor_id", "lease", "blocked", "env", "gpu_ids", "node_id",
                "seconds_in_state"),
    "leases": ("lease", "job", "owner", "key", "name", "resources", "gpu_ids", "blocked", "recalled", "pid", "worker",
               "actor"),
    "jobs": ("job_id", "status", "driver_pid", "entrypoint", "namespace", "submission_id", "driver", "seconds"),
    "objects": ("oid", "nbytes", "state", "holder", "copy"),
    "placement-groups": ("placement_group_id", "name", "state", "strategy", "ray_namespace"),
}
IDENTIFIERS = {"actors": "actor_id", "workers": "worker_id", "nodes": "NodeID", "jobs": "job_id", "tasks": "task_id",
               "objects": "oid"}
LISTABLE = ("nodes", "actors", "workers", "leases", "jobs", "objects", "tasks", "placement-groups")


def _rows(address: str, what: str) -> list[dict[str, Any]]:
    if what == "objects":
        return list(ask(address, "store")["store"].get("objects", []))
    return list(ask(address, what)[what])


def _filtered(what: str, rows: list[dict[str, Any]], filters: tuple[str, ...]) -> list[dict[str, Any]]:
    known = dict.fromkeys([*KEYS[what], *(key for row in rows for key in row)])
    for text in filters:
        name, equals, wanted = text.partition("=")
        unequal = name.endswith("!")
        if not equals:
            raise click.BadParameter(f"a filter is key=value or key!=value, not {text!r}")
        name = name.rstrip("!")
        if name not in known:
            raise click.BadParameter(f"{what} have no {name!r}{did_you_mean(name, known)}; they have "
                                     f"{', '.join(known)}")
        rows = [row for row in rows if (str(row.get(name, "")).lower() == wanted.lower()) != unequal]
    return rows


@main.command("list")
@click.argument("what", type=click.Choice(LISTABLE))
@click.option("--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--detail", is_flag=True, help="every column (json and yaml always have all)")
@with_address
@with_format
def list_(what: str, filters: tuple[str, ...], limit: int, detail: bool, address: str, form: str) -> None:
    """Rows of one kind, such as `zray list actors`."""
    rows = _filtered(what, _rows(address, what), filters)
    if len(rows) > limit and form in ("default", "table"):
        click.echo(f"the first {limit} of {len(rows)}; --limit shows more", err=True)
    rows = rows[:limit]
    if what in COLUMNS and not detail and form in ("default", "table"):
        rows = [{column: row[column] for column in COLUMNS[what] if column in row} for row in rows]
    show(rows, form)


@main.command()
@click.argument("what", type=click.Choice(("actors", "workers", "nodes", "jobs", "tasks", "objects")))
@click.argument("identifier")
@with_address
@with_format
def get(what: str, identifier: str, address: str, form: str) -> None:
    """One row by its id."""
    show(one(what, _rows(address, what), identifier), form)


def one(what: str, rows: list[dict[str, Any]], identifier: str) -> dict[str, Any]:
    """The row with that id, or the only one whose id begins so."""
    key = IDENTIFIERS[what]
    found = {str(row[key]): row for row in rows if identifier and str(row[key]).startswith(identifier)}
    if identifier in found:
        return found[identifier]
    if len(found) > 1:
        raise click.ClickException(f"{len(found)} {what} have ids that begin with {identifier}: "
                                   f"{', '.join(sorted(found)[:3])} ...")
    if not found:
        raise click.ClickException(f"no {what[:-1]} with id {identifier!r}")
    return next(iter(found.values()))


@main.command()
@click.argument("what", type=click.Choice(("actors", "workers", "tasks", "objects")))
@with_address
@with_format
def summary(what: str, address: str, form: str) -> None:
    """Counts by state and name."""
    key = {"actors": "class_name", "workers": "job_id", "tasks": "name", "objects": "holder"}[what]
    counts: dict[tuple[str, str], int] = {}
    for row in _rows(address, what):
        group = str(row.get(key, "")), str(row.get("state", "FINISHED"))
        counts[group] = counts.get(group, 0) + row.get("count", 1)
    show([{key: name, "state": state, "count": count} for (name, state), count in sorted(counts.items())], form)


@main.command()
@with_address
@with_format
def memory(address: str, form: str) -> None:
    """Who holds what in the object store."""
    store = ask(address, "store")["store"]
    if form != "default":
        show(store, form)
        return
    objects, pids = store.get("objects", []), store.get("pids", {})
    mib = {name: store.get(name, 0) / 2**20 for name in ("capacity", "used", "spilled")}
    click.echo(f"object store: {mib['used']:.1f} of {mib['capacity']:.0f} MiB in use, "
               f"{mib['spilled']:.1f} MiB on disk, {len(objects)} objects, "
               f"{store.get('waiting', 0)} requests wait for room")
    for error in filter(None, (store.get("growth_error"), store.get("spill_error"))):
        click.echo(f"  {error}")
    largest = sorted(objects, key=lambda row: -row["nbytes"])
    click.echo(table([{**row, "pid": pids.get(row["holder"], "")} for row in largest]))
