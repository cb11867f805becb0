"""``zray status``: nodes, resources in use, the queue, the place of the control store."""

from __future__ import annotations

from typing import Any

import click

from zray.cli.asking import CommandAsker, with_address
from zray.cli.commands import main
from zray.cli.showing import show, with_format


@main.command()
@with_address
@with_format
def status(address: str, form: str) -> None:
    """The nodes, what they have, what is in use, what waits and why, and where the control store is."""
    node = CommandAsker(address)
    try:
        nodes = node.ask("nodes")["nodes"]
        store = node.ask("gcs")
        total = node.ask("resources")["resources"]
        free = node.ask("available")["resources"]
        stats = node.ask("stats")["stats"]
        waiting = node.ask("leases")["waiting"]
    finally:
        node.close()
    if form != "default":
        show({"nodes": nodes, "resources": total, "available": free, "stats": stats, "waiting": waiting,
              "control_store": store}, form)
        return
    click.echo(f"session {node.handle.session_dir} (pid {node.handle.pid})")
    click.echo("\n".join(_node_lines(nodes)))
    click.echo("\n".join(_control_store_lines(store)))
    click.echo("resources of the cluster:")
    for name, amount in total.items():
        if name.startswith("node:") and free.get(name) == amount:
            continue
        click.echo(f"  {amount - free.get(name, 0):g}/{amount:g} {name} in use")
    workers = ", ".join(f"{count} {state.lower()}" for state, count in stats["workers"].items())
    click.echo(f"on this node: {stats['jobs']} jobs, {stats['actors']} actors, workers: {workers or 'none'}")
    for row in waiting:
        click.echo(f"  waits: {row['want']} x {row['name'] or 'an actor'}: {row['detail']}")


def _node_lines(nodes: list[dict[str, Any]]) -> list[str]:
    lines = [f"{sum(row['Alive'] for row in nodes)} nodes:"]
    for row in nodes:
        place = row.get("ListenAddress") or row["NodeManagerAddress"]
        has = ", ".join(f"{name}={amount:g}" for name, amount in row["Resources"].items()
                        if not name.endswith("memory") and not name.startswith("node:"))
        reason = row.get("DeathReasonMessage", "")
        note = "(the one that answers)" if row is nodes[0] else f"({reason})" if reason else ""
        cells = row["NodeID"][:8], row["State"], place, row["NodeName"], has, note
        lines.append("  " + " ".join(filter(None, cells)))
    return lines


def _control_store_lines(store: dict[str, Any]) -> list[str]:
    """The chains from head to tail, shards of one chain together, and the voters for them."""
    shards: dict[str, list[int]] = {}
    for chain in store["chains"]:
        members = " -> ".join(name[:8] for name in chain["members"])
        joins = f", {chain['joining'][:8]} catches up" if chain["joining"] else ""
        shards.setdefault(members + joins, []).append(chain["shard"])
    lines = [f"control store, {len(store['chains'])} shards:"]
    lines += [f"  {_spans(numbers)}: {members}" for members, numbers in shards.items()]
    lines.append(f"  decided by {', '.join(name[:8] for name in store['voters'])}")
    if store.get("trouble"):
        lines.append(f"  {store['trouble']}")
    return lines


def _spans(numbers: list[int]) -> str:
    """Ascending numbers for people: "0-3, 5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)
