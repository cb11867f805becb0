"""Commands that run a program on zray: ``zray demo`` and ``zray microbenchmark``."""

from __future__ import annotations

import sys

import click

from zray.cli.commands import main


@main.command()
@click.option("--nodes", type=click.IntRange(1, 8), default=1, help="daemons of the cluster; from 3 on, two are killed")
def demo(nodes: int) -> None:
    """Tree reduction and a learning agent, with a worker killed on the way."""
    from zray.cli import demo as module

    sys.exit(module.main(nodes))


@main.command()
@click.option("--num-cpus", type=click.IntRange(min=1), help="of the node it starts; as many as there are by default")
def microbenchmark(num_cpus: int | None) -> None:
    """The benchmark table, in short."""
    from zray.cli import microbenchmark as module

    sys.exit(module.main(num_cpus))
