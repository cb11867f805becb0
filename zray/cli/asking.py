"""Find the session that a command is about, and ask its node."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from zray.node.processes import linux
from zray.node.running import ask as ask_module, session as sessions
from zray.node.running.session import NodeSession

OTHERS_MAX = 3  # other sessions that are named where several run


class CommandAsker(ask_module.NodeClient):
    """Errors are those of a command."""

    def __init__(self, address: str):
        try:
            super().__init__(chosen(address))
        except ConnectionError as error:
            raise click.ClickException(str(error)) from None

    def ask(self, what: str, timeout_s: float = ask_module.QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        try:
            return super().ask(what, timeout_s, **args)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None

    def __enter__(self) -> CommandAsker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def chosen(address: str) -> str:
    """The address, or for "auto" the directory of the session that is meant.

    That is one that an ancestor of this process started, else the newest one.  Where others run, too, it is named on
    standard error.  Without any it stays "auto", whose error says where was looked.
    """
    if address != "auto":
        return address
    found = candidates()
    if not found:
        return address
    if len(found) > 1:
        others = [f"  {described(session)}" for session in found[1:1 + OTHERS_MAX]]
        if len(found) > 1 + OTHERS_MAX:
            others.append(f"  and {len(found) - 1 - OTHERS_MAX} more")
        click.echo("\n".join([f"{len(found)} sessions run; this is {described(found[0])}",
                              "The others, for --address:", *others]), err=True)
    return found[0].session_dir


def candidates() -> list[NodeSession]:
    """The sessions that run here, each cluster once by its newest node; the one that "auto" means first."""
    found: dict[str, NodeSession] = {}
    for session in [*sessions.of_ancestors(), *sessions.live_sessions()]:
        found.setdefault(session.cluster or session.session_dir, session)
    return list(found.values())


def described(session: NodeSession) -> str:
    """Where a session is, and what started it."""
    program = ""
    if session.shares_fate:
        words = linux.command_of(linux.parent(session.pid)).decode(errors="replace").split("\0")
        script = next((word for word in words[1:] if word.endswith((".py", ".ipynb"))), words[0])
        program = f", of {os.path.basename(script)}" if script else ""
    return f"{session.session_dir} (pid {session.pid}{program})"


def ask(address: str, what: str, **args: Any) -> dict[str, Any]:
    with CommandAsker(address) as node:
        return node.ask(what, **args)


def with_address(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--address", default=lambda: os.environ.get("ZRAY_ADDRESS") or "auto", metavar="SESSION",
                        help="a session directory or host:port of a node here, @FILE with a join string, or auto: the "
                             "newest session of this user (default; ZRAY_ADDRESS sets another)")(command)
