"""The staged programs of examples/troubleshooting: the commands that docs/troubleshooting.md names show the cause."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.scripts import ROOT, environment
from tests.e2e.target import until

pytest.importorskip("click")
pytest.importorskip("psutil")
pytestmark = pytest.mark.zray_only

STAGES = ROOT / "examples" / "troubleshooting"
SECONDS = 100  # a program ends by itself, whatever becomes of the test
COMMANDS_MAX = 5

# Of each program: the commands, and what they come to say; "" is the program's own output.
CAUSES: dict[str, dict[str, tuple[str, ...]]] = {
    "deadlock": {"explain": ("a deadlock", r"Stock\.reserve\(\)", r"Orders\.place\(\)")},
    "starving": {"status": ("3 x report", "license"), "explain": ("license: 1", r"in use by Viewer \(1\)")},
    "slow_task": {"list tasks --filter state=RUNNING": ("parse",), "stack": (r"slow_task\.py", "in parse", "field")},
    "leak": {"status": (r"object store: [2-9]\d\.\d MiB",),
             "memory": (r"[2-9]\d\.\d MiB .*actor statistics +\d+ +local refer",)},
    "closure": {"": (r"closure\.py:\d+: UserWarning", "'search.<locals>.lookup' is 15.3 MiB",
                     "closure variable 'table' is 15.3 MiB")},
    "hot_actor": {"status": (r"count +8 .*in get", r"totals +Totals +Totals\.add"), "explain": (r"Totals\.add\(\)",)},
    "full_store": {"status": ("room", "object store: 9"), "memory": (r"1\d\d MiB .*driver +\d+ +pinned in memory",)},
    "crash_loop": {"status": ("SIGSEGV", "RESTARTING|restarting|attempts"), "list actors": (r"scorer +Scorer.* \d+ ",),
                   "why scorer": (r"\d+ restarts so far",),
                   "logs --actor scorer": (r"crash_loop\.py., line \d+ in score", "100%n")},
    "blocked_loop": {"status": (r"Gateway\.request +100",),
                     "stack": (r"blocked_loop\.py., line \d+, in fetch", r"time\.sleep\(1\.0\)", "99 more")},
    "lost_node": {"status": ("dead +scanner-host", "no node has the resources"),
                  "explain": ("the node scanner-host had it, and is gone",)},
}
QUICK = ("deadlock",)


@contextlib.contextmanager
def staged(name: str, output: Path) -> Iterator[subprocess.Popen[str]]:
    """The program runs; afterwards nothing of it does."""
    from zray.node.running.session import base_dirs, live_sessions
    from zray.store.node import reaper

    with output.open("w") as file:
        program = subprocess.Popen([sys.executable, f"{name}.py", "--seconds", str(SECONDS)], cwd=STAGES, stdout=file,
                                   stderr=subprocess.STDOUT, env=environment(PYTHONWARNINGS="default"), text=True)
    try:
        yield program
    finally:
        program.kill()
        program.wait()
        until(lambda: not live_sessions(), "its nodes end with it")
        for base in base_dirs():  # the next node that starts removes the folder of one that was killed
            reaper.sweep(base)


def answer(command: str, output: Path) -> str:
    """What a command prints, whatever its exit code; a terminal of 100 columns does not break the words."""
    from click.testing import CliRunner

    from zray.cli import main

    if not command:
        return output.read_text()
    return CliRunner().invoke(main, command.split(), env={"COLUMNS": "160"}).output


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in CAUSES])
def test_the_commands_of_the_page_show_the_cause(name, fresh, tmp_path):
    output = tmp_path / "output"
    commands = CAUSES[name]
    with staged(name, output) as program:
        for command, words in commands.items():
            said = [""]

            def shown(command: str = command, words: tuple[str, ...] = words, said: list[str] = said) -> bool:
                assert program.poll() is None, output.read_text()
                said[0] = answer(command, output)
                return all(re.search(word, said[0]) for word in words)

            until(shown, lambda command=command, said=said: f"zray {command} says so; it says {said[0]}", 60)


def test_each_program_has_its_cause_and_the_page_its_commands():
    programs = {path.stem for path in STAGES.glob("*.py")} - {"staging"}
    assert programs == set(CAUSES)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    for name, commands in CAUSES.items():
        assert len(commands) <= COMMANDS_MAX
        section = page.partition(f"examples/troubleshooting/{name}.py")[2].partition("\n## ")[0]
        assert section, name
        for command in filter(None, commands):
            assert f"zray {command}" in section, (name, command)
