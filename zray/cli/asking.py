"""Ask the node that a command is about."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from zray.node.running import ask as ask_module, session as sessions


class CommandAsker(ask_module.NodeClient):
    """Errors are those of a command."""

    def __init__(self, address: str):
        try:
            super().__init__(address)
        except ConnectionError as error:
            raise click.ClickException(str(error)) from None
        say_which(address, self.handle.session_dir)

    def ask(self, what: str, timeout_s: float = ask_module.QUERY_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        try:
            return super().ask(what, timeout_s, **args)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None


def say_which(address: str, session_dir: str) -> None:
    """Name the session that "auto" stands for, on standard error, where others run, too."""
    if address == "auto" and len(sessions.live_sessions()) > 1:
        click.echo(f"Of several sessions that run here, this is {session_dir}", err=True)


def ask(address: str, what: str, **args: Any) -> dict[str, Any]:
    node = CommandAsker(address)
    try:
        return node.ask(what, **args)
    finally:
        node.close()


def with_address(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--address", default=lambda: os.environ.get("ZRAY_ADDRESS") or "auto",
                        help="a session directory or host:port of a node here, @FILE with a join string, or auto: "
                             "of the cluster that `zray start` made, else of the one program that runs")(command)
