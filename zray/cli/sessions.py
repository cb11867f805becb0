"""The option ``--session``: a session that may have ended, by its name; and ``zray sessions``, which lists them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import click

from zray.cli.commands import main
from zray.cli.showing import show, with_format
from zray.node.running import session as sessions
from zray.state import kept
from zray.state.client import Asker
from zray.state.errors import ServerUnavailable


def with_session(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command with ``--address`` the option ``--session``, which names the address."""
    @functools.wraps(command)
    def asks(*args: Any, session: str, **named: Any) -> Any:
        if session:
            try:
                named["address"] = kept.directory_of(session)
            except kept.NothingKept as error:
                raise click.ClickException(str(error)) from None
            say_when(named["address"])
        return command(*args, **named)

    return click.option("--session", default="", metavar="NAME",
                        help="a session that may have ended, by its name (see `zray sessions`) or \"last\"")(asks)


def say_when(address: str) -> None:
    """Say on standard error of which moment the rows of a session are that has ended."""
    if kept.is_ended(address):
        about = _opened(address).about
        click.echo(f"The session {about['session']} {_end(about)}", err=True)


def asker(address: str) -> Asker:
    """A connection to the node, or what its session has kept; errors are those of a command."""
    from zray.cli.asking import CommandAsker

    return _opened(address) if kept.is_ended(address) else CommandAsker(address)


def _opened(address: str) -> kept.KeptAsker:
    try:
        return kept.KeptAsker(address)
    except ServerUnavailable as error:
        raise click.ClickException(str(error)) from None


def _end(about: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["written_s"]))
    return f"ended at {at} ({about['ended']})" if about["ended"] else f"was killed; its rows are those of {at}"


@main.command("sessions")
@with_format
def sessions_(form: str) -> None:
    """The sessions of this user on this machine: those that run, and what the others have kept, the latest first."""
    rows = [{"session": os.path.basename(each.session_dir), "state": "runs", "pid": each.pid,
             "folder": each.session_dir} for each in sessions.live_sessions()]
    for path in kept.ended():
        try:
            node = kept.KeptNode(path)
            rows.append({"session": os.path.basename(path), "state": _end(node.about), "pid": node.about["pid"],
                         "folder": path})
        except kept.NothingKept as error:
            rows.append({"session": os.path.basename(path), "state": str(error), "pid": 0, "folder": path})
    show(rows, form)
