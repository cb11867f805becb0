"""Rows and maps as a table that fits the window, JSON or YAML."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import click

from zray.cli.tables import WIDE, Column, columns_of, record, table
from zray.cli.text import of_bytes, safe

FORMATS = ("default", "table", "json", "yaml")
PLAIN_WIDTH = 80  # where the output is no terminal, unless COLUMNS says otherwise
LEAST_WIDTH = 20
_YAML_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def width_now(wide: bool = False) -> int:
    """The width of the window; of a pipe that of COLUMNS, else PLAIN_WIDTH."""
    return WIDE if wide else max(LEAST_WIDTH, shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns)


def is_human(form: str) -> bool:
    return form in ("default", "table")


def show(value: Any, form: str, columns: Sequence[Column] | None = None, wide: bool = False) -> None:
    """Print rows or a map.  ``columns``: of a table; without them each key is one."""
    if form == "json":
        click.echo(json.dumps(value, indent=2, default=str))
    elif form == "yaml":
        click.echo("\n".join(_yaml(value)))
    elif isinstance(value, list):
        click.echo("\n".join(table(columns or columns_of(value, cell), value, width_now(wide))) if value else "(none)")
    else:
        click.echo("\n".join(record([(safe(key), cell(item)) for key, item in value.items()], width_now(wide))))


def _yaml(value: Any, indent: str = "") -> list[str]:
    """The part of YAML that wire types need; strings are quoted as in JSON, which YAML reads."""
    out: list[str] = []
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                out += [f"{indent}{_key(key)}:", *_yaml(item, indent + "  ")]
            else:
                out.append(f"{indent}{_key(key)}: {json.dumps(item, default=str)}")
    elif isinstance(value, list) and value:
        for item in value:
            lines = _yaml(item, indent + "  ")
            out += [f"{indent}- {lines[0].lstrip()}", *lines[1:]]
    else:
        out.append(f"{indent}{json.dumps(value, default=str)}")
    return out


def _key(key: Any) -> str:
    """Quoted unless YAML surely reads it as text: not a number, and none of its words for true, false and null."""
    text = str(key)
    return text if text.isascii() and text.isidentifier() and text.lower() not in _YAML_WORDS else json.dumps(text)


def cell(value: Any) -> str:
    """A value on one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{safe(key)}={_amount(key, item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return safe(value)


def _amount(key: Any, item: Any) -> str:
    return of_bytes(item) if str(key).endswith("memory") and type(item) in (int, float) else cell(item)


def with_format(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--format", "form", type=click.Choice(FORMATS), default="default",
                        help="a table that fits the window (default), or all of it as JSON or YAML")(command)


def with_wide(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--wide", "-w", is_flag=True, help="cut no cell of a table, whatever the window's width")(
        command)
