"""Rows of one kind: ``zray list``, ``get``, ``summary``, ``memory``; the rows are those of zray.state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from zray.cli.asking import ask, with_address
from zray.cli.commands import main
from zray.cli.sessions import with_session
from zray.cli.showing import show, table, with_format
from zray.state.client import LIMIT_MAX, list_rows
from zray.state.errors import RayStateApiException
from zray.state.filters import PREDICATES
from zray.state.kinds import KINDS
from zray.state.summaries import summary_of_actors, summary_of_objects, summary_of_tasks

LISTABLE = {name.replace("_", "-"): name for name in KINDS}
# As in Ray, `list` shows 100 rows.
LIST_TIMEOUT_S = 30.0


def rows_of(kind: str, address: str, filters: list[tuple[str, str, str]], limit: int, detail: bool) -> list[Any]:
    """Rows of a kind; what is wrong is the error of a command."""
    try:
        return list_rows(kind, address, filters, limit, LIST_TIMEOUT_S, detail, raise_on_missing_output=False)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    except RayStateApiException as error:
        raise click.ClickException(str(error)) from None


def parsed(text: str) -> tuple[str, str, str]:
    """A filter of the command line: ``key=value`` or ``key!=value``."""
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"a filter is key=value or key!=value, not {text!r}")
    unequal = key.endswith("!")
    return key.rstrip("!"), PREDICATES[unequal], value


@main.command("list")
@click.argument("what", type=click.Choice(tuple(LISTABLE)))
@click.option("--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE")
@click.option("--limit", type=click.IntRange(min=1, max=LIMIT_MAX), default=100, show_default=True)
@click.option("--detail", is_flag=True, help="every column")
@with_session
@with_address
@with_format
def list_(what: str, filters: tuple[str, ...], limit: int, detail: bool, address: str, form: str) -> None:
    """Rows of one kind, such as `zray list actors`: of what runs, and of what has ended."""
    found = rows_of(LISTABLE[what], address, [parsed(text) for text in filters], LIMIT_MAX, detail)
    if len(found) > limit and form in ("default", "table"):
        click.echo(f"the first {limit} of {len(found)}; --limit shows more", err=True)
    show([_columns(row, detail) for row in found[:limit]], form)


def _columns(row: Any, detail: bool) -> dict[str, Any]:
    return {name: row[name] for name in row.list_columns(detail)}


@main.command()
@click.argument("what", type=click.Choice([name for name, kind in LISTABLE.items() if KINDS[kind].is_gettable]))
@click.argument("identifier")
@with_session
@with_address
@with_format
def get(what: str, identifier: str, address: str, form: str) -> None:
    """One row by its id, or by the beginning of the id; attempts of one task are several rows."""
    kind = KINDS[LISTABLE[what]]
    found = [_columns(row, True) for row in rows_of(kind.name, address, [], LIMIT_MAX, True)]
    rows = with_id(what, found, kind.identifier, identifier)
    show(rows[0] if len(rows) == 1 else rows, form)


def with_id(what: str, rows: list[dict[str, Any]], key: str, identifier: str) -> list[dict[str, Any]]:
    """The rows with that id, or with the only id that begins so."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if identifier and str(row[key]).startswith(identifier):
            found.setdefault(str(row[key]), []).append(row)
    if identifier in found:
        return found[identifier]
    if len(found) > 1:
        raise click.ClickException(f"{len(found)} {what} have ids that begin with {identifier}: "
                                   f"{', '.join(sorted(found)[:3])} ...")
    if not found:
        raise click.ClickException(f"no {what[:-1]} with id {identifier!r}")
    return next(iter(found.values()))


SUMMARIES: dict[str, tuple[Callable[[Any], dict[str, Any]], str, str]] = {
    "actors": (summary_of_actors, "class_name", "state_counts"),
    "tasks": (summary_of_tasks, "func_or_class_name", "state_counts"),
    "objects": (summary_of_objects, "call_site", "ref_type_counts"),
}


@main.command()
@click.argument("what", type=click.Choice(tuple(SUMMARIES)))
@with_session
@with_address
@with_format
def summary(what: str, address: str, form: str) -> None:
    """Counts by name and state, of objects by call site and kind of reference."""
    count, key, counts = SUMMARIES[what]
    found = count(rows_of(what, address, [], LIMIT_MAX, what == "tasks"))
    show([{key: name, "state": state, "count": number} for name, about in sorted(found["summary"].items())
          for state, number in sorted(about[counts].items())], form)


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
