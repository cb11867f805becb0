"""What workers print is seen while they run, a line that has not ended included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.scripts import environment
from tests.e2e.target import IS_ZRAY
from tests.unit.test_driver_log import terminal

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the scripts import zray")

# Each step waits until the test has seen the one before: a driver that shows it too late waits for ever.
PROGRAM = """
import os, sys, time
import zray as ray

ray.init(num_cpus=2)

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

@ray.remote
def bar(stream, start):
    for step in range(4):
        print(f"{start}step {step} of 4", end="", file=getattr(sys, stream), flush=True)
        wait_for(f"seen {step}")
    print(f"{start}all steps", file=getattr(sys, stream))
    wait_for("seen all steps")

@ray.remote
def other():
    print("another line", flush=True)
    wait_for("seen another")

stream, start = sys.argv[1], {"cr": "\\r", "grow": ""}[sys.argv[2]]
running = bar.remote(stream, start)
wait_for("seen 1")
ray.get([running, other.remote()])
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["cr", "grow"])
def test_a_progress_bar_is_shown_while_it_moves(tmp_path, session_root, stream, kind):
    shown = b""
    wanted = {"another line": "seen another", "all steps": "seen all steps",
              **{f"step {step} of 4": f"seen {step}" for step in range(4)}}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, stream, kind], cwd=tmp_path, env=environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as process:
        assert process.stdout is not None
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                shown += chunk
                for words in [words for words in wanted if words.encode() in shown]:
                    Path(tmp_path, wanted.pop(words)).touch()
        except BaseException:  # the time limit of the test
            process.kill()
            raise
    assert process.returncode == 0 and not wanted, shown
    rows = terminal(shown.decode())
    end = "all steps" if kind == "cr" else "".join(f"step {step} of 4" for step in range(4)) + "all steps"
    assert [row for row in rows if re.fullmatch(rf"\(bar pid=\d+\) {end}", row)], rows
    assert [row for row in rows if re.fullmatch(r"\(other pid=\d+\) another line", row)], rows
    assert all(row.count("pid=") <= 1 for row in rows), rows
