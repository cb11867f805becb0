"""The command line of a run of chaos."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from fuzz.chaos import schedule
from fuzz.chaos.machines import enter
from fuzz.chaos.run import Options, run
from fuzz.chaos.workloads import WORKLOADS
from tests.e2e.hosts import may_make_networks

INSIDE = "CHAOS_INSIDE"  # set in the process that runs in namespaces of its own


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults of all kinds under mixed work: see docs/internals/chaos.md")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds between two kills")
    parser.add_argument("--hosts", type=int, default=6)
    parser.add_argument("--scale", type=float, default=0.1, help="size of the work: 1 shuffles 2 GB a round")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--kinds", nargs="+", choices=schedule.ALL_KINDS, default=schedule.ALL_KINDS,
                        metavar="KIND", help=f"of faults, all by default: {', '.join(schedule.ALL_KINDS)}")
    parser.add_argument("--each", action="store_true", help="one fault of each kind, and then the end")
    parser.add_argument("--here", action="store_true", help="no namespaces: nothing is cut off or filled up")
    parser.add_argument("--plan", action="store_true", help="print the faults of this seed, and end")
    parser.add_argument("--keep", default="", metavar="DIR", help="where logs go; they stay when the run fails")
    options = parser.parse_args()
    if options.plan:
        for fault in schedule.plan(options.seed, 60 * options.minutes, options.every, options.hosts, options.kinds):
            print(fault)
        return 0
    apart = not options.here and (INSIDE in os.environ or may_make_networks())
    if apart and INSIDE not in os.environ:
        return subprocess.run(enter([sys.executable, "-m", "fuzz.chaos", *sys.argv[1:]]),
                              env={**os.environ, INSIDE: "1"}).returncode
    os.environ.pop(INSIDE, None)
    keep = os.path.abspath(options.keep or f"/tmp/zray-chaos-{options.seed}")
    return run(Options(options.seed, 60 * options.minutes, options.every, options.hosts, options.scale,
                       tuple(options.workloads), tuple(options.kinds), options.each, keep), apart)


if __name__ == "__main__":
    raise SystemExit(main())
