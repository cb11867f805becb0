"""The ``zray`` command: the group that all commands join."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from zray.base.errors import did_you_mean
from zray.node.running import join_secret


class Commands(click.Group):
    """The error of a mistyped command names the nearest ones.

    No error repeats a join string, since others can read a terminal or a journal.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = join_secret.hide(error.message)  # type: ignore[misc]
            raise
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has seen enough, as `head` does: click ends without a word
                raise
            raise click.ClickException(f"the command could not go on: {error.strerror or error}"
                                       + (f": {error.filename}" if error.filename else "")) from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            suggestion = did_you_mean(args[0], self.list_commands(ctx))
            if not suggestion or suggestion in error.message:
                raise
            raise click.UsageError(f"{error.message}{suggestion}", ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zray")
@click.pass_context
def main(ctx: click.Context) -> None:
    """zray: Ray's programming model as a brokerless runtime."""
    join_secret.blank_own()
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    for stream in (sys.stdout, sys.stderr):  # a terminal without Unicode shows "?" and does not end the command
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
