"""Rows as plain text tables and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks.budgets import BUDGETS, reached
from benchmarks.measure import Row


def number(value: float | None) -> str:
    """Three significant digits, thousands apart."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(header: list[str], lines: list[list[str]]) -> str:
    """First column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    rule = "  ".join("-" * width for width in widths)

    def show(line: list[str]) -> str:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([show(header), rule, *map(show, lines)])


def own_table(rows: list[Row]) -> str:
    """One column of values beside the budgets."""
    lines = []
    for row in rows:
        verdict = {True: "yes", False: "NO", None: ""}[reached(row)]
        lines.append([row["row"], number(row["value"]), number(row.get("p99")), row["unit"],
                      number(BUDGETS.get(row["row"])), verdict])
    return table(["row", "value", "p99", "unit", "budget", "reached"], lines)


def write_json(path: str | Path, content: dict) -> None:
    """``content`` and the machine it was measured on."""
    machine = {"python": sys.version.split()[0], "cpus": os.cpu_count(), "platform": platform.platform(),
               "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")
