"""What a type checker makes of the public surface: tests/typing/surface.py, checked by mypy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SURFACE = Path(__file__).parents[1] / "typing" / "surface.py"


def wrong_lines() -> dict[int, str]:
    """Line number -> mypy's code of each error that a checker must report."""
    return {number: match.group(1) for number, line in enumerate(SURFACE.read_text().splitlines(), 1)
            if (match := re.search(r"# E: ([a-z-]+)", line))}


def test_types_flow_through_remote(tmp_path):
    pytest.importorskip("mypy", reason="mypy is in the dev extra")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary",
         "--show-error-codes", "--config-file=", "--ignore-missing-imports", f"--cache-dir={tmp_path}",
         "--no-pretty", str(SURFACE)],
        capture_output=True, text=True, cwd=SURFACE.parents[2], check=False)
    found = re.findall(r"surface\.py:(\d+): error: .*\[([a-z-]+)\]", done.stdout)
    assert {int(line): code for line, code in found} == wrong_lines(), done.stdout + done.stderr


@pytest.mark.slow  # the first time it fetches its program
def test_pyright_agrees():
    pytest.importorskip("pyright", reason="pyright is in the dev extra")
    done = subprocess.run([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(SURFACE)],
                          capture_output=True, text=True, cwd=SURFACE.parents[2], check=False)
    found = re.findall(r"surface\.py:(\d+):\d+ - error", done.stdout)
    assert set(map(int, found)) == set(wrong_lines()), done.stdout + done.stderr
