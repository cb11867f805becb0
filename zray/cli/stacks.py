"""``zray stack``: what the processes of a session do, by function; identical stacks are shown once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

import click

import zray
from zray.cli.asking import CommandAsker, chosen, with_address
from zray.cli.commands import main
from zray.cli.gathering import asking
from zray.cli.processes import NamedProcess, named, processes
from zray.cli.showing import is_human, show, with_format
from zray.cli.text import plural, safe_lines

NO_ANSWER = "no answer: it is gone, or C code holds its interpreter lock (--native looks from outside)"
ELSEWHERE = "it runs on another machine: ask there"
PIDS_MAX = 8  # of one group
NATIVE_S = 30.0
_FILE = re.compile(r'^  File "([^"]*)"', re.MULTILINE)
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio", "")
_PACKAGE = os.path.dirname(zray.__file__) + os.sep


@main.command()
@click.argument("wanted", required=False, metavar="[PID|ID|NAME]")
@click.option("--all", "every", is_flag=True, help="also idle workers, and zray's own threads")
@click.option("--native", is_flag=True, help="with C frames, by py-spy, which must be installed")
@with_address
@with_format
def stack(wanted: str | None, every: bool, native: bool, address: str, form: str) -> None:
    """Python stacks of drivers and of workers that run something, by function.

    Or of one process, actor, task, or of all that run one function.
    """
    if native and shutil.which("py-spy") is None:
        raise click.ClickException("--native needs py-spy, which is not on the PATH: pip install py-spy")
    address = chosen(address)
    with CommandAsker(address) as node, asking(address) as client:
        known = processes(node, client)
        shown = named(known, client, wanted) if wanted is not None else known
        idle = [] if every or wanted is not None else [one for one in shown if one.is_idle]
        texts = [(one, _native(one) if native else _text(node, one, every)) for one in shown if one not in idle]
    groups = folded(texts)
    if not is_human(form):
        show([{"label": label, "pids": [one.pid for one in members], "stack": text}
              for label, text, members in groups], form)
        return
    for label, text, members in groups:
        click.echo(f"---- {label} ({_pids(members)})\n{safe_lines(text)}")
    if idle:
        click.echo(f"{plural(len(idle), 'idle worker')} left out; --all shows them")
    elif not groups:
        click.echo("no driver or worker runs")


def folded(texts: Sequence[tuple[NamedProcess, str]]) -> list[tuple[str, str, list[NamedProcess]]]:
    """(label, stacks, the processes that have them), the largest group of a label first."""
    groups: dict[tuple[str, str], list[NamedProcess]] = {}
    for one, text in texts:
        groups.setdefault((one.label, text), []).append(one)
    return [(label, text, members) for (label, text), members in groups.items()]


def _pids(members: list[NamedProcess]) -> str:
    numbers = ", ".join(str(one.pid) for one in members[:PIDS_MAX])
    more = f" and {len(members) - PIDS_MAX} more" if len(members) > PIDS_MAX else ""
    if members[0].is_driver:
        return f"pid {numbers}"
    return f"{plural(len(members), 'worker')}, pid {numbers}{more}"


def _text(node: CommandAsker, one: NamedProcess, every: bool) -> str:
    if not one.socket:
        return ELSEWHERE
    answer: Any = node.ask_process(one.socket, session_dir=one.session_dir)
    if answer is None:
        return NO_ANSWER
    return answer.text if every else of_user(answer.text)


def of_user(text: str) -> str:
    """The stacks of threads and coroutines that are in user code."""
    blocks = re.split(r"\n(?=(?:thread|coroutine) [^\n]*:\n)", text)
    kept = [block for block in blocks
            if not block.startswith("thread zray-") and any(map(_is_of_user, _FILE.findall(block)))]
    return "\n".join(kept) or "no thread is in user code\n"


def _is_of_user(path: str) -> bool:
    return not path.startswith((_PACKAGE, _ASYNCIO, "<")) and path != threading.__file__


def _native(one: NamedProcess) -> str:
    command = ["py-spy", "dump", "--native", "--pid", str(one.pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=NATIVE_S)
    except subprocess.TimeoutExpired:
        return f"py-spy did not end within {NATIVE_S:g} s"
    return done.stdout if done.returncode == 0 else f"py-spy cannot read it: {done.stderr.strip()}"
