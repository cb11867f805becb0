"""``zray metrics``: the metrics of user code and of the nodes, as Prometheus reads them."""

from __future__ import annotations

import click

from zray.cli.asking import ask, with_address
from zray.cli.commands import main
from zray.metrics.exposition import merged, text_of


@main.command()
@with_address
def metrics(address: str) -> None:
    """Print the metrics of all nodes in Prometheus' text format.

    The setting metrics_address makes each node serve its own over HTTP.
    """
    click.echo(text_of(merged(ask(address, "metrics")["metrics"])), nl=False)
