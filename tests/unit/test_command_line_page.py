"""docs/command-line.md is made from the commands: ``python tests/unit/test_command_line_page.py --write``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

click = pytest.importorskip("click")
from zray.cli import main  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
MARK = "## The commands\n"
HIDDEN = ("help", "version")
SHARED = ("address", "session", "form", "wide")  # options that many commands have: described once
# What each group of the page has, in its order; a command that is in none fails the test.
GROUPS: dict[str, tuple[str, ...]] = {
    "What runs, and why it waits": ("status", "top", "dashboard", "explain", "why", "stack", "profile", "memory"),
    "Rows": ("list", "get", "summary", "events"),
    "Records": ("logs", "timeline", "metrics", "report", "sessions"),
    "End something": ("kill", "cancel", "drain-node"),
    "Nodes": ("start", "stop", "doctor"),
    "Programs": ("run", "job", "debug", "replay", "demo", "microbenchmark"),
}


def page() -> str:
    """The page: what a person has written, then the commands."""
    written = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    return written + MARK + "".join(_groups())


def _groups() -> Iterator[str]:
    known = dict(main.commands)
    yield "\n### Options of many commands\n\n"
    described = {param.name: param for param in main.commands["list"].params if param.name in SHARED}
    yield "\n".join(line for name in SHARED for line in _option(described[name])) + "\n"
    for title, names in GROUPS.items():
        yield f"\n### {title}\n"
        for name in names:
            yield from _command(f"zray {name}", known.pop(name))
    if known:
        yield "\n### More\n"
        for name, command in sorted(known.items()):
            yield from _command(f"zray {name}", command)


def _command(path: str, command) -> Iterator[str]:
    arguments = [_argument(param) for param in command.params if isinstance(param, click.Argument)]
    words = " ".join([path, *arguments, *(["COMMAND"] if isinstance(command, click.Group) else [])])
    yield f"\n#### `{words}`\n\n{_prose(command.help)}\n"
    options = [param for param in command.params if isinstance(param, click.Option) and param.name not in HIDDEN]
    shared = [param for param in options if _is_shared(param)]
    lines = [line for param in options if param not in shared for line in _option(param)]
    if shared:
        lines.append("- also " + ", ".join(f"`{param.opts[0]}`" for param in shared))
    if lines:
        yield "\n" + "\n".join(lines) + "\n"
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _command(f"{path} {name}", inner)


def _is_shared(param) -> bool:
    described = {each.name: each for each in main.commands["list"].params}
    return param.name in SHARED and param.help == described[param.name].help


def _argument(param) -> str:
    shown = param.metavar or (param.name or "").upper()
    shown += "..." if param.nargs == -1 else ""
    return shown if param.required or shown.startswith("[") else f"[{shown}]"


def _option(param) -> Iterator[str]:
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    value = "" if param.is_flag else f" {_value(param)}"
    text = inspect.cleandoc(param.help or "").replace("\n", " ")
    default = f" (default {param.default})" if param.show_default and not param.is_flag else ""
    yield f"- {names}{value}" + (f": {text}" if text else "") + default


def _value(param) -> str:
    if isinstance(param.type, click.Choice):
        return " | ".join(param.type.choices)
    return param.metavar or param.type.name.upper().replace(" RANGE", "")


def _prose(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n"))


def test_the_page_of_the_commands_is_current():
    assert page() == PAGE.read_text(encoding="utf-8"), f"run: python {Path(__file__).name} --write"


def test_each_command_is_in_a_group_of_the_page_and_has_a_description():
    placed = {name for names in GROUPS.values() for name in names}
    assert placed <= set(main.commands), "no such command"
    assert all(command.help for command in main.commands.values())


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page(), encoding="utf-8")
