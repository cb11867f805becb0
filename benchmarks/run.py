"""Measure zray and print every row beside its budget; ``python -m benchmarks`` is the same.

    python -m benchmarks [group ...] [--quick] [--json benchmarks/results/zray.json]
"""

from __future__ import annotations

import argparse

from benchmarks.budgets import reached
from benchmarks.command import add_parts
from benchmarks.groups import GROUPS
from benchmarks.processes import measure_apart
from benchmarks.report import own_table, write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_parts(parser, GROUPS, "groups")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--json", default="benchmarks/results/zray.json")
    options = parser.parse_args()
    rows = [row for group in options.groups for row in measure_apart(group, quick=options.quick)]
    print(own_table(rows))
    missed = sum(reached(row) is False for row in rows)
    print(f"\n{len(rows)} rows, {missed} miss their budget")
    write_json(options.json, {"rows": rows})
    return 0 if rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
