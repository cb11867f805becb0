"""The records of a session: ``zray logs`` and ``zray timeline``."""

from __future__ import annotations

import json
import os
from collections import deque

import click

from zray.cli.asking import CommandAsker, with_address
from zray.cli.commands import main
from zray.node.running import launch, session as sessions
from zray.state.timeline import timeline_events


@main.command()
@click.option("--output", "-o", default="timeline.json", show_default=True)
@with_address
def timeline(output: str, address: str) -> None:
    """Write what ran when, as Chrome trace events."""
    node = CommandAsker(address)
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

    Without --address: of the newest that runs, or else of the one that ended last.  --address takes the directory of a
    session that has ended, too.
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
        return launch.find_session(address).session_dir
    except ConnectionError as error:
        running, ended = sessions.live_sessions(), sessions.ended_sessions()
        if address != "auto" or not (running or ended):
            raise click.ClickException(str(error)) from None
        return running[0].session_dir if running else ended[0]
