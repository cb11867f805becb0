"""The long runs of fuzz/ in short form; their full length is a matter of minutes to an hour."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.scripts import ROOT, environment
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the runs use zray")


@pytest.mark.parametrize("command", [
    "cycles --count 5 --every 2",
    "kill_workers --kills 15 --seed 3",
    "sigint --count 100 --seed 3",
    pytest.param("flat_memory --tasks 100000 --puts 10000", marks=pytest.mark.slow),
    pytest.param("cycles --count 100", marks=pytest.mark.slow),
    pytest.param("kill_workers --kills 200 --seed 4", marks=pytest.mark.slow),
    pytest.param("sigint --count 2000 --seed 4", marks=pytest.mark.slow),
])
def test_a_short_run_holds(command, session_root):
    module, *arguments = command.split()
    done = subprocess.run([sys.executable, "-m", f"fuzz.{module}", *arguments], cwd=ROOT, env=environment(), text=True,
                          capture_output=True, timeout=110)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
