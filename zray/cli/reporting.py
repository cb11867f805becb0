"""``zray report FILE.html``: one page about a run, for a bug report."""

from __future__ import annotations

import os

import click

from zray.cli.asking import with_address
from zray.cli.commands import main
from zray.cli.sessions import with_session
from zray.node.running import launch, session as sessions
from zray.state import kept
from zray.state.errors import RayStateApiException


@main.command()
@click.argument("file", type=click.Path(dir_okay=False))
@with_session
@with_address
def report(file: str, address: str) -> None:
    """Write one page about a run that goes on or has ended: what failed, the slowest functions, a timeline, memory.

    Without --session and --address: of the program that runs, or else of the session that ended last.  The page is one
    file without scripts, to attach to a bug report.  Secrets and values of environment variables are left out.
    """
    from zray.report import gathering
    from zray.report.hiding import Hider
    from zray.report.page import page

    directory = _session_of(address)
    try:
        text = page(gathering.gathered(directory), Hider(os.environ))
    except RayStateApiException as error:
        raise click.ClickException(str(error)) from None
    temporary = f"{file}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)
        os.replace(temporary, file)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    click.echo(f"{file} is about the session {directory}; open it in a browser")


def _session_of(address: str) -> str:
    if kept.is_ended(address):
        return address
    try:
        return launch.find_session(address, asks=True).session_dir
    except ConnectionError as error:
        ended = kept.ended() if address == "auto" and not sessions.live_sessions() else []
        if not ended:
            raise click.ClickException(str(error)) from None
        return ended[0]
