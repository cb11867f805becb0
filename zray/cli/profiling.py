"""``zray profile``: where a worker or driver spends its time, as a flame graph or for speedscope."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

import click

from zray.base.sampling import RATE_MAX_HZ, SECONDS_MAX
from zray.base.stacks import PROFILE
from zray.cli import flame
from zray.cli.asking import CommandAsker, chosen, with_address
from zray.cli.commands import main
from zray.cli.gathering import asking
from zray.cli.processes import NamedProcess, named, processes
from zray.cli.showing import width_now
from zray.cli.tables import Column, table
from zray.cli.text import safe

ANSWER_S = 10.0  # after the end of the sampling: the process may be slow to get its interpreter lock
TOP_FRAMES = 10
FORMS = ("flame", "speedscope", "folded")
SUFFIXES = {"flame": ".svg", "speedscope": ".speedscope.json", "folded": ".folded"}


@main.command()
@click.argument("wanted", metavar="PID|ID|NAME")
@click.option("--seconds", type=click.FloatRange(min=0, max=SECONDS_MAX, min_open=True), default=5.0, metavar="N",
              show_default=True)
@click.option("--rate", type=click.FloatRange(min=0, max=RATE_MAX_HZ, min_open=True), default=100.0,
              show_default=True, metavar="HZ", help="samples a second")
@click.option("--format", "form", type=click.Choice(FORMS), default=None,
              help="a flame graph (SVG), a file for speedscope.app, or folded stacks; default by the name of the file")
@click.option("--output", "-o", default=None, metavar="FILE", help="default: profile-PID.svg")
@click.option("--native", is_flag=True, help="with C frames, by py-spy, which must be installed")
@with_address
def profile(wanted: str, seconds: float, rate: float, form: str | None, output: str | None, native: bool,
            address: str) -> None:
    """Sample the stacks of one worker or driver for some seconds, and draw them.

    WANTED is a pid, or the id or name of a worker, an actor, a task or a function that runs.  py-spy samples from
    outside where it is installed; else a thread of the process itself does, which sees Python frames only.
    """
    if native and shutil.which("py-spy") is None:
        raise click.ClickException("--native needs py-spy, which is not on the PATH: pip install py-spy")
    form = form or ("speedscope" if (output or "").endswith(".json") else
                    "folded" if (output or "").endswith((".folded", ".txt")) else "flame")
    address = chosen(address)
    with CommandAsker(address) as node, asking(address) as client:
        found = named(processes(node, client), client, wanted)
        one = found[0]
        if len(found) > 1:
            click.echo(f"{len(found)} processes run it; this is the profile of pid {one.pid}", err=True)
        if not one.socket:
            raise click.ClickException(f"pid {one.pid} runs on another machine: ask there")
        outside = _by_py_spy(one, seconds, rate, native) if shutil.which("py-spy") else None
        stacks = flame.parsed(_by_itself(node, one, seconds, rate)) if outside is None else flame.of_user(
            flame.parsed(outside))
    if not stacks:
        raise click.ClickException(f"pid {one.pid} ({one.label}) was in no user code during these {seconds:g} s")
    title = f"{one.label}, pid {one.pid}, {seconds:g} s"
    drawn = {"flame": flame.svg, "speedscope": flame.speedscope}.get(form)
    path = output or f"profile-{one.pid}{SUFFIXES[form]}"
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(drawn(stacks, title) if drawn else flame.written(stacks))
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    click.echo("\n".join(summary(stacks, width_now())))
    click.echo(f"written to {path}" + ("; open it in https://www.speedscope.app" if form == "speedscope" else ""))


def summary(stacks: flame.Stacks, width: int) -> list[str]:
    """The functions in which most samples were."""
    total = sum(stacks.values())
    return table((Column("SELF", lambda row: f"{100 * row[1] / total:.0f}%", 0, 0, True),
                  Column("TOTAL", lambda row: f"{100 * row[2] / total:.0f}%", 1, 0, True),
                  Column("FUNCTION", lambda row: safe(row[0]), 0, 12)),
                 [row for row in flame.heaviest(stacks) if row[1]][:TOP_FRAMES], width)


def _by_itself(node: CommandAsker, one: NamedProcess, seconds: float, rate: float) -> str:
    question = PROFILE + f" {seconds:g} {rate:g}".encode()
    answer = node.ask_process(one.socket, question, seconds + ANSWER_S, one.session_dir)
    if answer is None:
        raise click.ClickException(f"pid {one.pid} did not answer: it is gone, or C code holds its interpreter lock "
                                   "(py-spy can sample it then: pip install py-spy)")
    if answer.text.startswith("error: "):
        raise click.ClickException(answer.text.removeprefix("error: "))
    return answer.text


def _by_py_spy(one: NamedProcess, seconds: float, rate: float, native: bool) -> str | None:
    """Folded stacks; None, with a note, where py-spy may not look into the process."""
    with tempfile.TemporaryDirectory(prefix="zray-profile-") as folder:
        path = os.path.join(folder, "folded")
        command = ["py-spy", "record", "--pid", str(one.pid), "--duration", str(max(1, round(seconds))), "--rate",
                   str(max(1, round(rate))), "--format", "raw", "--nonblocking", "--output", path,
                   *(["--native"] if native else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                                  timeout=seconds + 2 * ANSWER_S)
            if done.returncode == 0:
                with open(path, encoding="utf-8", errors="replace") as file:
                    return file.read()
            why = done.stderr.strip().rpartition("\n")[2]
        except subprocess.TimeoutExpired:
            why = "it did not end in time"
        except OSError as error:
            why = f"it wrote nothing ({error.strerror})"
    if native:
        raise click.ClickException(f"py-spy could not sample pid {one.pid}: {why}")
    click.echo(f"py-spy could not sample pid {one.pid} ({safe(why)}); the process samples itself", err=True)
    return None
