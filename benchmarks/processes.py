"""Each group in a process of its own, with the interpreter that has the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.one import MARK

ROOT = Path(__file__).parents[1]
LIMIT_S = 900
COMPILED = ROOT / "benchmarks" / "results" / "compiled"  # users start from compiled modules; the checkout may have none


def measure_apart(group: str, module: str = "zray", python: str = sys.executable, quick: bool = False) -> list[Row]:
    """Rows of ``group`` on ``module``; on failure the end of the output goes to stderr and there are no rows."""
    command = [python, "-m", "benchmarks.one", group, "--module", module, *(["--quick"] if quick else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0", "PYTHONWARNINGS": "ignore",
                   "PYTHONPYCACHEPREFIX": str(COMPILED)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"{module} {group}: stopped after {LIMIT_S} s", file=sys.stderr)
        return []
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    print(f"{module} {group}: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}", file=sys.stderr)
    return []
