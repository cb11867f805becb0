"""Commands that run a program on zray: ``zray run``, ``zray demo`` and ``zray microbenchmark``."""

from __future__ import annotations

import sys

import click

from zray.cli.commands import main


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--ray-version", help="what ray.__version__ says (default: ZRAY_RAY_VERSION, else the Ray that zray "
                                    "follows)")
@click.option("--record", type=click.Path(file_okay=False), metavar="DIR",
              help="record the run in this new folder, for `zray replay DIR`; it will hold arguments and results")
@click.option("--post-mortem", is_flag=True, help="a task that raises waits at the raise for `zray debug`")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
def run(ray_version: str | None, record: str | None, post_mortem: bool, program: tuple[str, ...]) -> None:
    """Run a program that was written for Ray: `import ray` is zray in it, its workers and its subprocesses.

    PROGRAM is SCRIPT [ARGUMENT ...], -m MODULE [ARGUMENT ...], -c CODE, or a program on the PATH with its arguments.
    """
    from zray.compat import running
    from zray.recording.files import CannotRecord

    try:
        running.run(program, ray_version, record, post_mortem)
    except (running.CannotRun, CannotRecord) as error:
        raise click.ClickException(str(error)) from None


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
