"""``zray status`` and ``zray top``: what runs and what waits, then nodes, resources and the control store."""

from __future__ import annotations

import click

from zray.cli.asking import with_address
from zray.cli.commands import main
from zray.cli.gathering import asking, described_at
from zray.cli.picture import as_map, lines, take
from zray.cli.showing import is_human, show, width_now, with_format
from zray.cli.usage import Usages


@main.command()
@with_address
@with_format
def status(address: str, form: str) -> None:
    """What runs, what waits and why; then the nodes, what is in use, and where the control store is."""
    with asking(address, must_run=True) as client:
        picture = take(client, Usages(), described_at(client), twice=not is_human(form), errors=True)
    if is_human(form):
        click.echo("\n".join(lines(picture, width_now())))
    else:
        show(as_map(picture), form)


@main.command()
@click.option("--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, metavar="SECONDS",
              help="between two pictures")
@with_address
@with_format
def top(interval: float, address: str, form: str) -> None:
    """What runs and waits now, live: workers with CPU and memory, queues of actors; q or Ctrl-C ends it.

    Where the output is no terminal it prints one picture and ends.
    """
    from zray.cli import top as live

    if is_human(form) and live.is_possible():
        live.watch(address, interval)
        return
    with asking(address, must_run=True) as client:
        picture = take(client, Usages(), described_at(client), twice=True)
    if is_human(form):
        click.echo("\n".join(live.whole(picture, width_now())))
    else:
        show(as_map(picture), form)
