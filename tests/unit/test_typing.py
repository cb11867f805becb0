"""What a type checker makes of the public surface: tests/typing/surface.py, checked by mypy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SURFACE = Path(__file__).parents[1] / "typing" / "surface.py"


def test_types_flow_through_remote(tmp_path):
    pytest.importorskip("mypy", reason="mypy is in the dev extra")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary",
         "--show-error-codes", "--config-file=", "--ignore-missing-imports", f"--cache-dir={tmp_path}",
         "--no-pretty", str(SURFACE)],
        capture_output=True, text=True, cwd=SURFACE.parents[2], check=False)
    found = re.findall(r"surface\.py:(\d+): error: .*\[([a-z-]+)\]", done.stdout)
    reported = {(int(line), code) for line, code in found}
    wanted = {(number, match.group(1)) for number, line in enumerate(SURFACE.read_text().splitlines(), 1)
              if (match := re.search(r"# E: ([a-z-]+)", line))}
    assert reported == wanted, done.stdout + done.stderr
