"""``zray replay``: run again what a recording has, and say where it differs."""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from zray.cli.commands import main

if TYPE_CHECKING:
    from zray.replay.reading import RecordedRun, Recording
    from zray.replay.running import Replayer
    from zray.replay.runtime import Divergence


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--list", "listing", is_flag=True, help="list the recorded runs, in the order of their starts")
@click.option("--task", metavar="ID|NAME", help="only this task; or this call of an actor, after the calls before it")
@click.option("--actor", metavar="ID|NAME", help="only this actor: its constructor and its calls, in order")
@click.option("--life", type=click.IntRange(min=0), help="with --actor: which of its lives, if it was restarted")
@click.option("--driver", is_flag=True, help="only the driver: its script runs again, and gets the recorded answers")
@click.option("--until", metavar="ID|NAME", help="end after this run")
@click.option("--keep-going", is_flag=True, help="report each run that diverges, not only the first")
@click.option("--pdb", is_flag=True, help="run the task, or the --until call of the actor, in the debugger")
def replay(folder: str, listing: bool, task: str | None, actor: str | None, life: int | None, driver: bool,
           until: str | None, keep_going: bool, pdb: bool) -> None:
    """Run the recording in DIR again, in this process, and report the first divergence.

    A recording is made by `zray run --record DIR script.py`, or with ZRAY_RECORD=DIR.  A run gets its recorded
    arguments; what it asks of zray is compared with the record, and answered from there.  Exit code 1: it diverges.
    """
    from zray.replay.reading import CannotReplay, read
    from zray.replay.running import Replayer

    if (bool(task) + bool(actor) + driver > 1) or (until and (task or driver)) or (life is not None and not actor):
        raise click.UsageError("give one of --task, --actor and --driver; --until goes with --actor or alone, and "
                               "--life with --actor")
    if pdb and not (task or (actor and until)):
        raise click.UsageError("--pdb needs to know what to debug: give --task, or --actor and --until")
    try:
        recording = read(folder)
        _prepare(recording)
        for note in recording.notes():
            click.echo(f"note: {note}", err=True)
        if listing:
            for run in recording.runs:
                click.echo(f"{run}: {run.end()}")
            return
        with Replayer(recording, lambda text: click.echo(text, err=True)) as replayer:
            if driver:
                one = replayer.driver()
                what, found = "the driver", [one] if one is not None else []
            elif task or actor:
                what, one = _replay_one(recording, replayer, (task, actor, until), life, pdb)
                found = [one] if one is not None else []
            else:
                every = replayer.all(recording.find(until) if until else None)
                found = list(every if keep_going else itertools.islice(every, 1))
                what = f"{replayer.count} runs replayed"
    except CannotReplay as error:
        raise click.ClickException(str(error)) from None
    if not found:
        click.echo(f"{what}: no divergence")
        return
    for divergence in found:
        click.echo(str(divergence))
    if not recording.facts["hash_seed"]:
        click.echo("The order of sets differs from process to process, since the run had no PYTHONHASHSEED; "
                   "`zray run --record` sets it.")
    sys.exit(1)


def _replay_one(recording: Recording, replayer: Replayer, which: tuple[str | None, ...], life: int | None, pdb: bool
                ) -> tuple[str, Divergence | None]:
    """A task or an actor: what was replayed, and its first divergence."""
    from zray.replay.reading import is_call
    from zray.replay.running import plainly

    task, actor, until = which
    call: Any = debugged if pdb else plainly
    last: RecordedRun | None = recording.find(until) if until else None
    if task:
        run = recording.find(task)
        if is_call(run):
            return str(run), replayer.life(recording.constructor_of(run), run, call)
        return str(run), replayer.task(run, call)
    assert actor is not None
    constructor = recording.find_actor(actor, life)
    if last is not None and not (is_call(last) and recording.constructor_of(last) is constructor):
        raise click.UsageError(f"{last} is no call of {constructor}")
    found = replayer.life(constructor, last, call)
    return f"{constructor}, {replayer.count} runs", found


def _prepare(recording: Recording) -> None:
    """Make this process like the recorded one: the order of sets, the working directory, the import path, ray."""
    from zray.base import ray_names

    facts = recording.facts
    seed = facts["hash_seed"]
    if seed and os.environ.get("PYTHONHASHSEED") != seed:
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, "-m", "zray.cli", *sys.argv[1:]], environ)
    if facts["ray_version"]:
        ray_names.install(facts["ray_version"])
    known = set(sys.path)
    paths = dict.fromkeys(path for process in recording.processes for path in process.facts["sys_path"])
    sys.path[:0] = [path for path in paths if path and path not in known]
    if os.path.isdir(facts["cwd"]):
        os.chdir(facts["cwd"])


def debugged(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call a function in the debugger, from its first line on; after an exception, at the place where it was raised."""
    import bdb
    import inspect
    import pdb
    import traceback

    debugger = pdb.Pdb()
    plain = inspect.unwrap(getattr(function, "__func__", function))
    try:
        if any(is_late(plain) for is_late in (inspect.iscoroutinefunction, inspect.isgeneratorfunction,
                                              inspect.isasyncgenfunction)):
            debugger.set_trace()  # its body runs later: `step` leads there
            return function(*args, **kwargs)
        debugger.reset()
        sys.settrace(debugger.trace_dispatch)  # Pdb.runcall() does not say whether the user has quit
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(None)
    except bdb.BdbQuit:
        raise KeyboardInterrupt from None
    except Exception as error:
        traceback.print_exc()
        if error.__traceback__ is not None:
            frame = error.__traceback__
            while frame.tb_next is not None and frame.tb_frame.f_code is not plain.__code__:
                frame = frame.tb_next
            pdb.post_mortem(frame)
        raise
