"""Run the same program on zray and on real Ray, and compare what it prints.

``import zray as ray`` is the only line that differs between the two, so a program for Ray is a copy in which the name
``zray`` is replaced.  ``ZRAY_TEST_RAY_PYTHON`` names the interpreter of an environment that has Ray; nothing of it is
imported here.  Starting Ray takes many seconds: all programs share one of its clusters, as they do with an address.

What programs print is kept in ``tests/e2e/printed``, so that each run of the tests compares zray with Ray, also where
there is none.  ``ZRAY_TEST_RAY_PYTHON=... python -m tests.e2e.differential`` writes these files: what real Ray prints.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.e2e.scripts import ROOT, environment

RAY_PYTHON = os.environ.get("ZRAY_TEST_RAY_PYTHON", "")
PRINTED = ROOT / "tests" / "e2e" / "printed"
TIMEOUT_S = 110
NAME = re.compile(r"\bzray\b")

# Holds a cluster until its standard input ends.
HOLD = """
import ray, sys
context = ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
print("ADDRESS", context.address_info["address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""

# Ray prints notes of its own to the program's output, from its threads, and those of its raylet also at exit.  This
# drops them.
ONLY_MAIN_THREAD = """
import sys, threading

class MainThread:
    def __init__(self, stream):
        self._stream = stream
    def write(self, text):
        if threading.current_thread() is threading.main_thread() and "(raylet)" not in text:
            return self._stream.write(text)
        return len(text)
    def __getattr__(self, name):
        return getattr(self._stream, name)

sys.stdout = MainThread(sys.stdout)
"""


class Program(NamedTuple):
    """A program of this repository, with arguments that make it small.

    ``own_session`` programs start a session themselves; ``is_varying`` ones print what depends on the interpreter.
    What ``timed`` matches depends on the order in which things happen: it is printed as "...".
    """

    path: str
    arguments: str = ""
    own_session: bool = False
    is_varying: bool = False
    timed: str = ""

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def printed(self) -> Path:
        return PRINTED / f"{self.name}.txt"


PROGRAMS = (
    Program("examples/monte_carlo_pi.py", "--tasks 4 --samples 20000"),
    Program("examples/batch_prediction.py", "--shards 6 --rows 500 --broken 2"),
    Program("examples/sorting.py", "--blocks 4 --rows 2000 --parts 3"),
    Program("examples/ring_allreduce.py", "--ranks 3 --size 10000"),
    Program("examples/actor_tree.py", "--depth 2 --branches 2 --crash 1"),
    Program("examples/crawler.py", "--pages 30 --in-flight 4"),
    Program("examples/self_play.py", "--rounds 2 --games 4 --searches 12"),
    Program("examples/evolution_strategies.py", "--iterations 6"),
    Program("examples/pipeline.py", "--documents 20 --at-once 4"),
    Program("examples/counter.py", "--counters 2 --increments 50"),
    Program("examples/parameter_server.py", "--rounds 20", timed=r"(?<=asynchronous )[\d.]+|(?<=at most )[\d.e-]+"),
    Program("examples/tree_reduction.py", "--matrices 5 --size 16", timed="linear .*"),
    Program("examples/word_count.py", "--files 30 --top 5", is_varying=True),
    Program("examples/inverted_index.py", "weakref threading --files 60", is_varying=True),
    Program("tests/e2e/programs/failures.py", own_session=True),
)


def lines_of(program: Program, output: str) -> list[str]:
    """What the program printed: its lines that are not blank, without what depends on timing."""
    text = re.sub(program.timed, "...", output) if program.timed else output
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def run_on_zray(program: Program, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / program.path, *program.arguments.split()], cwd=ROOT, text=True, capture_output=True,
        env=environment(PYTHONWARNINGS="default", **env), timeout=TIMEOUT_S)


@contextlib.contextmanager
def copied_for_ray(*folders: str) -> Iterator[Path]:
    """A directory with copies of these folders in which ``zray`` is called ``ray``."""
    with tempfile.TemporaryDirectory(prefix="for-ray-") as root:
        for folder in folders:
            shutil.copytree(ROOT / folder, Path(root, folder), ignore=shutil.ignore_patterns("__pycache__"))
        for path in Path(root).rglob("*.py"):
            path.write_text(NAME.sub("ray", path.read_text(encoding="utf-8")), encoding="utf-8")
        Path(root, "sitecustomize.py").write_text(ONLY_MAIN_THREAD, encoding="utf-8")
        yield Path(root)


def ray_environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items()
            if key != "PYTHONPATH" and not key.startswith(("ZRAY_", "RAY_"))}
    return {**kept, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **more}


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """The address of a cluster of real Ray."""
    holder = subprocess.Popen([RAY_PYTHON, "-c", HOLD], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, env=ray_environment())
    assert holder.stdin and holder.stdout
    try:
        for line in holder.stdout:
            if line.startswith("ADDRESS "):
                yield line.split()[1]
                break
        else:
            raise RuntimeError(f"{RAY_PYTHON} does not start Ray: exit {holder.wait()}")
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def run_on_ray(program: Program, copies: Path, address: str) -> subprocess.CompletedProcess[str]:
    session = {} if program.own_session else {"RAY_ADDRESS": address}
    env = ray_environment(PYTHONPATH=str(copies), **session)
    return subprocess.run([RAY_PYTHON, copies / program.path, *program.arguments.split()], cwd=copies, text=True,
                          capture_output=True, env=env, timeout=5 * TIMEOUT_S)


def main(names: list[str]) -> None:
    """Write what real Ray prints, of the programs with these names, or of all."""
    PRINTED.mkdir(exist_ok=True)
    with copied_for_ray("examples", "tests/e2e/programs") as copies, ray_cluster() as address:
        for program in PROGRAMS:
            if program.is_varying or (names and program.name not in names):
                continue
            done = run_on_ray(program, copies, address)
            if done.returncode:
                sys.exit(f"{program.name} fails on Ray:\n{done.stdout}{done.stderr}")
            program.printed.write_text("\n".join(lines_of(program, done.stdout)) + "\n", encoding="utf-8")
            print(program.name)


if __name__ == "__main__":
    if not RAY_PYTHON:
        sys.exit("ZRAY_TEST_RAY_PYTHON must name the Python of an environment with Ray.")
    main(sys.argv[1:])
