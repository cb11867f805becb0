"""Measure one group in this process and print its rows as JSON: what run.py and compare.py start for each group."""

from __future__ import annotations

import argparse
import json

from benchmarks.groups import GROUPS, measure

MARK = "ROWS "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=[*GROUPS])
    parser.add_argument("--module", default="zray", choices=["zray", "ray"])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print("\n" + MARK + json.dumps(measure(options.group, options.module, options.quick)), flush=True)


if __name__ == "__main__":
    main()
