"""The records of a session: ``zray logs`` and ``zray timeline``."""

from __future__ import annotations

import json
import os
from collections import deque

import click

from zray.cli.asking import say_which, with_address
from zray.cli.commands import main
from zray.cli.sessions import asker, with_session
from zray.node.running import launch, session as sessions
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


@main.command()
@click.argument("name", required=False)
@click.option("--tail", type=click.IntRange(min=0), default=100, show_default=True, help="lines of each file")
@with_address
def logs(name: str | None, tail: int, address: str) -> None:
    """List the log files of a session, or print the end of those whose names begin with NAME.

    Without --address: of the session that other commands ask, or of the one that ended last where none runs.
    --address takes the directory of a session that has ended, too.
    """
    directory = os.path.join(_log_session(address), sessions.LOGS)
    names = sorted(os.listdir(directory))
    if name is None:
        click.echo(f"{directory}:", err=True)
        click.echo("\n".join(names))
        return
    chosen = [one for one in names if one.startswith(name)]
    if not chosen:
        raise click.ClickException(f"no log {name!r} in {directory}")
    for one in chosen:
        with open(os.path.join(directory, one), encoding="utf-8", errors="replace") as file:
            lines = deque((line.lstrip("\0") for line in file), tail)
        if len(chosen) > 1:
            click.echo(f"---- {one}")
        click.echo("".join(lines), nl=False)


def _log_session(address: str) -> str:
    """The directory of the session, which may have ended."""
    if os.path.isdir(os.path.join(address, sessions.LOGS)):
        return address
    try:
        found = launch.find_session(address, asks=True).session_dir
    except ConnectionError as error:
        ended = sessions.ended_sessions() if address == "auto" and not sessions.live_sessions() else []
        if not ended:
            raise click.ClickException(str(error)) from None
        click.echo(f"No session runs; the one that ended last is {ended[0]}", err=True)
        return ended[0]
    say_which(address, found)
    return found
