"""Run Python programs and the command line in processes of their own, as users do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """This process's, with the checkout importable from any working directory."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "error", **more}


def run_script(directory: Path, source: str, *arguments: str, name: str = "train.py", check: bool = True,
               python: tuple[str, ...] = (), timeout_s: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """Write ``source`` to ``directory/name`` and run it there; AssertionError with its output when it fails."""
    (directory / name).write_text(textwrap.dedent(source))
    done = subprocess.run([sys.executable, *python, name, *arguments], cwd=directory, env=environment(**env), text=True,
                          capture_output=True, timeout=timeout_s)
    assert not check or done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def zray(*arguments: str, code: int = 0, **env: str) -> str:
    """What the command says, output and errors; AssertionError when it does not exit with ``code``."""
    program = "import sys; from zray.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=environment(**env), text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
