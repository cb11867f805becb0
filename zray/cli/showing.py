"""Rows and maps as a table, JSON or YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

CELL_MAX = 64  # characters of a table's cell, but for its last column
FORMATS = ("default", "table", "json", "yaml")


def show(value: Any, form: str) -> None:
    """Print rows or a map."""
    if form == "json":
        click.echo(json.dumps(value, indent=2, default=str))
    elif form == "yaml":
        click.echo("\n".join(_yaml(value)))
    elif isinstance(value, list):
        click.echo(table(value))
    else:
        click.echo("\n".join(f"{key}: {_cell(item)}" for key, item in value.items()))


def _yaml(value: Any, indent: str = "") -> list[str]:
    """The part of YAML that wire types need; strings are quoted as in JSON, which YAML reads."""
    out: list[str] = []
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                out += [f"{indent}{key}:", *_yaml(item, indent + "  ")]
            else:
                out.append(f"{indent}{key}: {json.dumps(item, default=str)}")
    elif isinstance(value, list) and value:
        for item in value:
            lines = _yaml(item, indent + "  ")
            out += [f"{indent}- {lines[0].lstrip()}", *lines[1:]]
    else:
        out.append(f"{indent}{json.dumps(value, default=str)}")
    return out


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)


def table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "(none)"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    last = columns[-1]
    cells = [[_cell(row.get(column, ""))[:None if column is last else CELL_MAX] for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def with_format(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--format", "form", type=click.Choice(FORMATS), default="default")(command)
