"""``zray start`` and ``zray stop``."""

from __future__ import annotations

import os
from typing import Any

import click

from zray.cli.commands import main
from zray.node.running import dashboard, join_secret, launch
from zray.node.running.options import ADDRESS_HELP, NEW_CLUSTER_HELP, BadOption, json_map


@main.command()
@click.option("--head", is_flag=True, help="start a cluster (what happens without --address, too)")
@click.option("--address", default="", metavar="@FILE", help=ADDRESS_HELP)
@click.option("--new-cluster", is_flag=True, help=NEW_CLUSTER_HELP)
@click.option("--host", default="", help="address to bind and to be dialled at (default: loopback)")
@click.option("--node-ip-address", default="", help="what the node shows as its address (default: the machine's)")
@click.option("--port", type=int, default=0, help="the node's well-known TCP port (default: any free one)")
@click.option("--port-range", default="", metavar="LOW-HIGH", help="for endpoints of drivers and workers")
@click.option("--one-port", is_flag=True, help="drivers and workers bind no ports: their nodes relay (slower)")
@click.option("--node-name", default="", help="a name that no other node of the cluster has")
@click.option("--insecure", is_flag=True, help="plain TCP: no encryption, no authentication")
@click.option("--gcs-dir", default="", metavar="DIR", help="keep the control store here over restarts")
@click.option("--num-cpus", type=float)
@click.option("--num-gpus", type=float)
@click.option("--resources", default="{}", metavar="JSON")
@click.option("--labels", default="{}", metavar="JSON")
@click.option("--object-store-memory", type=float, metavar="BYTES")
@click.option("--memory", type=float, metavar="BYTES", help="of tasks and actors (default: what the machine has)")
@click.option("--session-dir", default="", help="where to keep the session")
@click.option("--include-dashboard", type=bool, metavar="BOOL",
              help="serve the dashboard, too (extra zray[dashboard]; `zray dashboard` does so at any time)")
@click.option("--dashboard-port", type=click.IntRange(0, 65535),
              help="include it, at this port (default: 8265 when that is free, else any free one)")
@click.option("--block", is_flag=True, help="be the node: SIGTERM, SIGINT (Ctrl-C) or SIGHUP end it, with exit code 0")
def start(head: bool, address: str, resources: str, labels: str, block: bool, include_dashboard: bool | None,
          dashboard_port: int | None, **options: Any) -> None:
    """Start a node: the first of a cluster, or one more of the cluster whose join string is given."""
    if head and address:
        raise click.ClickException("--head starts a cluster and --address joins one: give one of them")
    try:
        address = join_secret.join_string(address, head=head)
        node_options = launch.NodeOptions(
            **options, head=not address, address=address, resources=json_map(resources, "--resources"),
            labels=json_map(labels, "--labels"), share_fate=False)
        if options["insecure"]:
            click.secho("INSECURE: whoever reaches this port controls the cluster and runs code as this user.",
                        fg="red", bold=True, err=True)
        listener = dashboard.asked(include_dashboard, dashboard_port)
        if block:
            if listener is not None:
                dashboard.spawn(listener, node_pid=os.getpid())
            launch.become_node(node_options)
        node = launch.start_node(node_options)
    except (BadOption, join_secret.NoJoinString, launch.NodeStartError, dashboard.NoDashboard) as error:
        raise click.ClickException(str(error).removeprefix("zray-node: ")) from None
    click.echo(node.session.introduction())
    if listener is not None:
        page = dashboard.spawn(listener, session_dir=node.session_dir)
        click.echo(f"The dashboard is at http://{page.address}; `zray dashboard` prints the link with its token.")


@main.command()
@click.option("--all", "every", is_flag=True, help="also nodes that init() started")
@click.option("--session-dir", default="", help="only this one")
@click.option("--force", "-f", is_flag=True, help="accepted as in Ray")
def stop(every: bool, session_dir: str, force: bool) -> None:
    """End the nodes that `zray start` made for this user, and nobody else's."""
    stopped = launch.stop_sessions(every, session_dir)
    if session_dir and not stopped:
        raise click.ClickException(f"no zray node of this user runs in {session_dir!r}")
    for session in stopped:
        click.echo(f"stopped {session.session_dir} (pid {session.pid})")
    if not stopped:
        click.echo("no zray node of this user was running")
