"""zray beside something else, in one run on one machine: alternately, each group in a process of its own.

    python -m benchmarks.compare --against ray [--ray-python PATH] [--rounds 2] [group ...]
    python -m benchmarks.compare --against multiprocessing

Without ``--ray-python`` Ray is installed with pip into a virtual environment of its own (kept in
benchmarks/results/ray-venv).  Of several rounds the best value of each row counts, for both sides.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks import pool
from benchmarks.budgets import BUDGETS
from benchmarks.command import add_parts
from benchmarks.groups import GROUPS, ZRAY_ONLY
from benchmarks.measure import Row
from benchmarks.processes import measure_apart
from benchmarks.report import number, table, write_json

RAY_VENV = Path(__file__).parent / "results" / "ray-venv"
RAY_PACKAGE = "ray==2.60.0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_parts(parser, GROUPS, "groups")
    parser.add_argument("--against", required=True, choices=["ray", "multiprocessing"])
    parser.add_argument("--ray-python", help="an interpreter that has Ray")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--json", default="benchmarks/results/compare.json")
    options = parser.parse_args()
    groups = options.groups
    if options.against == "ray":
        python = options.ray_python or python_with_ray()
        other = lambda group: [] if group in ZRAY_ONLY else measure_apart(group, "ray", python, options.quick)  # noqa: E731
    else:
        measured = pool.rows()
        other = lambda group: [row for row in measured if row["group"] == group]  # noqa: E731
    ours, theirs = alternate(groups, options.rounds, lambda g: measure_apart(g, quick=options.quick), other)
    print(comparison(ours, theirs, options.against))
    write_json(options.json, {"against": options.against, "zray": list(ours.values()), "other": list(theirs.values())})
    return 0 if ours else 1


def python_with_ray() -> str:
    """The interpreter of a virtual environment with Ray, made when absent."""
    python = RAY_VENV / "bin" / "python"
    if not python.exists():
        venv.create(RAY_VENV, with_pip=True)
    if subprocess.run([python, "-c", "import ray, numpy"], capture_output=True).returncode != 0:
        print(f"installing {RAY_PACKAGE} into {RAY_VENV}", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", RAY_PACKAGE, "numpy"], check=True)
    return str(python)


Measure = Callable[[str], list[Row]]


def alternate(groups: list[str], rounds: int, ours: Measure, theirs: Measure) -> tuple[dict[str, Row], dict[str, Row]]:
    """Best rows by name for both sides; the sides take turns, and who begins changes each round."""
    best: tuple[dict[str, Row], dict[str, Row]] = ({}, {})
    for turn in range(rounds):
        for group in groups:
            sides = [(best[0], ours), (best[1], theirs)]
            for found, measure in sides if turn % 2 == 0 else reversed(sides):
                for row in measure(group):
                    found[row["row"]] = better(found.get(row["row"]), row)
    return best


def better(old: Row | None, new: Row) -> Row:
    if old is None:
        return new
    return max(old, new, key=lambda row: row["value"] if row["better"] == "higher" else -row["value"])


def comparison(ours: dict[str, Row], theirs: dict[str, Row], name: str) -> str:
    """Both columns, how many times better zray is, and the budget."""
    lines = []
    for key in [*ours, *(k for k in theirs if k not in ours)]:
        mine, other = ours.get(key), theirs.get(key)
        row = mine or other or {}
        ratio = ""
        if mine and other and mine["value"] and other["value"]:
            quotient = mine["value"] / other["value"]
            ratio = f"{quotient if row['better'] == 'higher' else 1 / quotient:.3g}x"
        lines.append([key, row["unit"], number(mine and mine["value"]), number(mine and mine.get("p99")),
                      number(other and other["value"]), number(other and other.get("p99")), ratio,
                      number(BUDGETS.get(key))])
    return table(["row", "unit", "zray", "p99", name, "p99", "better by", "budget"], lines)


if __name__ == "__main__":
    raise SystemExit(main())
