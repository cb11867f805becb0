"""``zray memory``: who holds what, by holder and line, the biggest first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import click

from zray.cli.asking import with_address
from zray.cli.commands import main
from zray.cli.finding import short_task
from zray.cli.gathering import asking, note_missing, rows
from zray.cli.live import Unfinished
from zray.cli.showing import is_human, show, width_now, with_format, with_wide
from zray.cli.tables import Column, folded, table
from zray.cli.text import of_bytes, plural, safe

Row = dict[str, Any]


@dataclass
class HeldObjects:
    """The objects that one process holds in one way, made at one line."""

    holder: str
    pid: int
    kind: str
    site: str
    objects: int = 0
    nbytes: int = 0
    pending: int = 0  # objects without a value yet
    largest: tuple[int, str] = field(default=(-1, ""))

    def add(self, row: Row) -> None:
        self.objects += 1
        self.nbytes += max(0, row["object_size"])
        self.pending += row["object_size"] < 0
        self.largest = max(self.largest, (row["object_size"], row["object_id"]))


def held(objects: Iterable[Row], names: dict[int, str]) -> list[HeldObjects]:
    """The references by holder, kind and line; ``names``: what processes are, by pid."""
    sites = {row["object_id"]: row["call_site"] for row in objects if row["call_site"] not in ("", "disabled", None)}
    found: dict[tuple[Any, ...], HeldObjects] = {}
    for row in objects:
        site = sites.get(row["object_id"], "")  # the maker knows the line, the other holders do not
        holder = names.get(row["pid"]) or row["type"].lower()
        key = row["ip"], row["pid"], row["reference_type"], site
        found.setdefault(key, HeldObjects(holder, row["pid"], row["reference_type"], site)).add(row)
    return sorted(found.values(), key=lambda each: (-each.nbytes, -each.objects, each.pid, each.kind, each.site))


def line_of(site: str) -> str:
    """A call site in short: the innermost line, with how the object was made."""
    how, _, place = site.partition(") ")
    first = place.partition(" | ")[0].strip()
    path, _, rest = first.partition(":")
    name = path.rpartition("/")[2]
    return f"{name}:{rest} {how.lstrip('(')}" if place else site


@main.command()
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="rows of the table")
@with_wide
@with_address
@with_format
def memory(limit: int, wide: bool, address: str, form: str) -> None:
    """Who holds which objects: by process and by the line that made them, the biggest first.

    Lines need the setting record_ref_creation_sites (RAY_record_ref_creation_sites=1 where the program starts).
    """
    with asking(address) as client:
        client.gather(("objects", "workers", "tasks", "actors"), [("store", {})])
        store = client.ask("store")["store"]
        objects = rows(client, "objects")
        if not is_human(form):
            show({**store, "holders": [_as_row(each) for each in held(objects, {})]}, form)
            return
        names = _names(rows(client, "workers"), Unfinished(rows(client, "tasks")), rows(client, "actors"))
        note_missing(client)
    found = held(objects, names)
    width = width_now(wide)
    click.echo("\n".join([*_store_lines(store, width), *_unheld(store, objects, width),
                          *table_of(found, limit, width)]))
    if found and not any(each.site for each in found):
        click.echo("\n".join(folded("lines are not recorded: start the program with RAY_record_ref_creation_sites=1",
                                    width, "  ")))


def table_of(found: list[HeldObjects], limit: int, width: int) -> list[str]:
    if not found:
        return ["no process holds an object"]
    more = [f"and {plural(len(found) - limit, 'more row')}; --limit shows them"] if len(found) > limit else []
    return [*table((
        Column("SIZE", lambda each: of_bytes(each.nbytes), 0, 0, True),
        Column("OBJECTS", lambda each: f"{each.objects:,}", 1, 0, True),
        Column("PENDING", lambda each: f"{each.pending:,}" if each.pending else "", 4, 0, True),
        Column("HOLDER", lambda each: safe(each.holder), 0, 10),
        Column("PID", lambda each: str(each.pid), 2, 0, True),
        Column("MADE AT", lambda each: safe(line_of(each.site)), 0, 14),
        Column("KIND", lambda each: each.kind.lower().replace("_", " "), 3, 8),
        Column("LARGEST", lambda each: short_task(each.largest[1]), 5)), found[:limit], width), *more]


def _store_lines(store: Row, width: int) -> list[str]:
    objects = store.get("objects", [])
    text = (f"object store of this node: {of_bytes(store.get('used', 0))} of {of_bytes(store.get('capacity', 0))} in "
            f"use, {of_bytes(store.get('spilled', 0))} on disk, {plural(len(objects), 'object')}")
    if store.get("waiting"):
        text += f", {plural(store['waiting'], 'request')} wait for room"
    errors = filter(None, (store.get("growth_error"), store.get("spill_error")))
    return [line for each in (text, *errors) for line in folded(safe(each), width, "  ")]


def _unheld(store: Row, objects: list[Row], width: int) -> list[str]:
    """Objects in the store to which no process that answered refers: copies for reading, or being freed."""
    known = {row["object_id"] for row in objects}
    left = [row for row in store.get("objects", []) if row["oid"] not in known]
    if not left:
        return []
    return folded(f"{plural(len(left), 'object')} of {of_bytes(sum(row['nbytes'] for row in left))} have no reference "
                  "in a process that answers: copies, or on their way out", width, "  ")


def _names(workers: list[Row], work: Unfinished, actors: list[Row]) -> dict[int, str]:
    """What processes are, by pid."""
    by_pid = {row["pid"]: row["name"] or row["class_name"] for row in actors if row["state"] == "ALIVE"}
    found = {}
    for row in workers:
        if row["is_alive"]:
            runs = work.on(row["worker_id"])
            actor = by_pid.get(row["pid"])
            found[row["pid"]] = ("driver" if row["worker_type"] == "DRIVER" else f"actor {actor}" if actor
                                 else runs[0]["name"] if runs else "idle worker")
    return found


def _as_row(each: HeldObjects) -> Row:
    return {"pid": each.pid, "type": each.holder, "reference_type": each.kind, "call_site": each.site,
            "objects": each.objects, "bytes": each.nbytes, "pending": each.pending, "largest_object": each.largest[1]}
