"""``zray dashboard``: the link to the page of a session, which the command serves where nobody does yet."""

from __future__ import annotations

import click

from zray.cli.asking import chosen, with_address
from zray.cli.commands import main
from zray.node.running import dashboard as places, launch


@main.command()
@with_address
@click.option("--port", type=click.IntRange(0, 65535),
              help="of 127.0.0.1 (default: 8265 when it is free, else any free one)")
def dashboard(address: str, port: int | None) -> None:
    """Print the link to the dashboard of a session.

    Where none was started with the node, the command serves it itself, until Ctrl-C.  The link has a token: its reader
    may see the session, and kill, cancel and drain.
    """
    try:
        found = launch.find_session(chosen(address), asks=True)
    except ConnectionError as error:
        raise click.ClickException(str(error)) from None
    running = places.of_session(found.session_dir)
    if running is not None:
        if port is not None and not running.address.endswith(f":{port}"):
            raise click.ClickException(f"the dashboard of this session runs at {running.address} already: leave --port "
                                       "out")
        click.echo(running.link)
        return
    try:
        places.require()
        listener = places.bind(port)
    except places.NoDashboard as error:
        raise click.ClickException(str(error)) from None
    import asyncio

    from zray.dashboard.main import serve

    def ready(file: places.DashboardFile) -> None:
        click.echo(f"The dashboard of {found.session_dir}, until Ctrl-C:\n{file.link}")

    asyncio.run(serve(found.session, listener, ends_with_node=False, ready=ready))
