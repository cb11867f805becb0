"""Rows of one kind: ``zray list``, ``get``, ``summary``, ``events``; the rows are those of zray.state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from zray.cli.asking import with_address
from zray.cli.columns import COLUMNS, NEED_WORK, Scene
from zray.cli.commands import main
from zray.cli.finding import with_id
from zray.cli.gathering import asking, rows_of, scene_for
from zray.cli.sessions import with_session
from zray.cli.showing import is_human, show, width_now, with_format, with_wide
from zray.cli.tables import folded
from zray.cli.text import safe
from zray.state.client import LIMIT_MAX
from zray.state.filters import PREDICATES
from zray.state.kinds import KINDS
from zray.state.summaries import summary_of_actors, summary_of_objects, summary_of_tasks

LISTABLE = {name.replace("_", "-"): name for name in KINDS}


class KindChoice(click.Choice[str]):
    """A kind of rows: plural or singular, with "-" or "_"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value).lower().replace("_", "-")
        return super().convert(name if name in self.choices else f"{name}s", param, ctx) if (
            f"{name}s" in self.choices) else super().convert(name, param, ctx)


def parsed(text: str) -> tuple[str, str, str]:
    """A filter of the command line: ``key=value`` or ``key!=value``."""
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"a filter is key=value or key!=value, not {text!r}")
    unequal = key.endswith("!")
    return key.rstrip("!"), PREDICATES[unequal], value


@main.command("list")
@click.argument("what", type=KindChoice(tuple(LISTABLE)))
@click.option("--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE",
              help="only rows whose column has this value, or KEY!=VALUE; columns are those of --format json")
@click.option("--limit", type=click.IntRange(min=1, max=LIMIT_MAX), default=100, show_default=True)
@click.option("--detail", is_flag=True, help="every column, one block of lines for each row")
@with_wide
@with_session
@with_address
@with_format
def list_(what: str, filters: tuple[str, ...], limit: int, detail: bool, wide: bool, address: str, form: str) -> None:
    """Rows of one kind, such as `zray list actors`: of what runs, and of what has ended."""
    kind, human = LISTABLE[what], is_human(form)
    found = rows_of(kind, address, [parsed(text) for text in filters], detail or human)
    if len(found) > limit and human:
        click.echo(f"the first {limit} of {len(found)}; --limit shows more", err=True)
    shown = [_columns(row, detail or human) for row in found[:limit]]
    if human and detail:
        _blocks(shown, wide)
    elif human and shown:
        show(shown, form, COLUMNS[kind](_scene(kind, address)), wide)
    else:
        show(shown, form)


def _scene(kind: str, address: str) -> Scene:
    if kind not in NEED_WORK:
        return Scene(time.time())
    with asking(address) as client:
        return scene_for(kind, client)


def _blocks(shown: list[dict[str, Any]], wide: bool) -> None:
    if not shown:
        click.echo("(none)")
    for number, row in enumerate(shown):
        if number:
            click.echo()
        show(_filled(row), "default", wide=wide)


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that say something."""
    return {name: value for name, value in row.items() if value not in (None, "", {}, [])}


def _columns(row: Any, detail: bool) -> dict[str, Any]:
    return {name: row[name] for name in row.list_columns(detail)}


@main.command()
@click.argument("what", type=KindChoice([name for name, kind in LISTABLE.items() if KINDS[kind].is_gettable]))
@click.argument("identifier", metavar="ID|NAME")
@with_wide
@with_session
@with_address
@with_format
def get(what: str, identifier: str, wide: bool, address: str, form: str) -> None:
    """One row, as in `zray get actor NAME`: by its id, its beginning, its short form, its name or pid.

    Attempts of one task are several rows.
    """
    kind = KINDS[LISTABLE[what]]
    found = [_columns(row, True) for row in rows_of(kind.name, address, [], True)]
    rows = with_id(kind.name, found, identifier)
    if is_human(form):
        _blocks(rows, wide)
    else:
        show(rows[0] if len(rows) == 1 else rows, form)


SUMMARIES: dict[str, tuple[Callable[[Any], dict[str, Any]], str, str]] = {
    "actors": (summary_of_actors, "class_name", "state_counts"),
    "tasks": (summary_of_tasks, "func_or_class_name", "state_counts"),
    "objects": (summary_of_objects, "call_site", "ref_type_counts"),
}


@main.command()
@click.argument("what", type=KindChoice(tuple(SUMMARIES)))
@with_session
@with_address
@with_format
def summary(what: str, address: str, form: str) -> None:
    """Counts by name and state, of objects by call site and kind of reference."""
    count, key, counts = SUMMARIES[what]
    found = count(rows_of(what, address, [], what == "tasks"))
    show([{key: name, "state": state, "count": number} for name, about in sorted(found["summary"].items())
          for state, number in sorted(about[counts].items())], form)


@main.command()
@click.option("--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE", help="such as severity=ERROR")
@click.option("--limit", type=click.IntRange(min=1, max=LIMIT_MAX), default=50, show_default=True,
              help="the last events")
@with_wide
@with_address
@with_format
def events(filters: tuple[str, ...], limit: int, wide: bool, address: str, form: str) -> None:
    """What the nodes have noted: nodes, jobs, actors and workers that began or ended, and why; the latest last."""
    found = rows_of("cluster_events", address, [parsed(text) for text in filters], True)[-limit:]
    if not is_human(form) or not found:
        show([_columns(row, True) for row in found], form)
        return
    width = width_now(wide)
    for row in found:
        severity = "" if row.severity == "INFO" else f"{row.severity} "
        text = f"{row.time[:19]} {row.event_id[:8]} {severity}{safe(row.message)}"
        click.echo("\n".join(folded(text, width, "  ")))
