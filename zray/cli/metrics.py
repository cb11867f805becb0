"""``zray metrics``: the metrics of user code and of the nodes, as Prometheus reads them; a board for Grafana."""

from __future__ import annotations

import json

import click

from zray.cli.asking import ask, with_address
from zray.cli.commands import main
from zray.metrics.board import board
from zray.metrics.exposition import merged, text_of


@main.command()
@click.option("--grafana-board", is_flag=True, help="Print a board for Grafana, as JSON; asks no cluster.")
@click.option("--scrape-targets", is_flag=True,
              help="Print where the nodes serve metrics, as Prometheus' file_sd_configs reads it.")
@with_address
def metrics(grafana_board: bool, scrape_targets: bool, address: str) -> None:
    """Print the metrics of all nodes in Prometheus' text format.

    The setting metrics_address makes each node serve its own over HTTP.
    """
    if grafana_board and scrape_targets:
        raise click.UsageError("--grafana-board and --scrape-targets are two things: ask for one of them")
    if grafana_board:
        click.echo(json.dumps(board(), indent=1))
    elif scrape_targets:
        _targets(address)
    else:
        click.echo(text_of(merged(ask(address, "metrics")["metrics"])), nl=False)


def _targets(address: str) -> None:
    nodes = [node for node in ask(address, "nodes")["nodes"] if node["Alive"]]
    served = [node for node in nodes if node.get("MetricsExportPort")]
    if not served:
        raise click.ClickException("no node serves metrics: start nodes with the setting metrics_address, for example "
                                   "ZRAY_METRICS_ADDRESS=:9090")
    if len(served) < len(nodes):
        click.echo(f"{len(nodes) - len(served)} of {len(nodes)} nodes serve no metrics; their logs say why", err=True)
    click.echo(json.dumps([{"targets": [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in served],
                            "labels": {"job": "zray"}}], indent=1))
