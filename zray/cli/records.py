"""The record of a session for other tools: ``zray timeline``."""

from __future__ import annotations

import json

import click

from zray.cli.asking import with_address
from zray.cli.commands import main
from zray.cli.sessions import asker, with_session
from zray.state.timeline import timeline_events


@main.command()
@click.option("--output", "-o", default="timeline.json", show_default=True)
@with_session
@with_address
def timeline(output: str, address: str) -> None:
    """Write what ran when, as Chrome trace events."""
    node = asker(address)
    try:
        events = timeline_events(node.ask)
    finally:
        node.close()
    try:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(events, file)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"{len(events)} events in {output}; open it in chrome://tracing or ui.perfetto.dev")
