"""``zray demo``, as the README's first command runs it, without a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.scripts import environment
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the demo is zray's own")


def test_the_demo_kills_a_worker_loses_nothing_learns_and_ends_with_a_table(tmp_path, session_root):
    pytest.importorskip("gymnasium")
    done = subprocess.run([sys.executable, "-m", "zray.cli.demo"], cwd=tmp_path, text=True, capture_output=True,
                          env=environment(PYTHONWARNINGS="default"), timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "nothing was lost" in said
    assert "(learnt;" in said
    assert "everything as it should be" in said
    for column in ("tasks", "objects", "bytes", "MB/s"):
        assert column in said


def test_the_demo_on_three_nodes_loses_two_of_them_and_nothing_else(tmp_path, session_root):
    pytest.importorskip("gymnasium")
    program = "import sys; from zray.cli.demo import main; sys.exit(main(3))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(PYTHONWARNINGS="default"),
                          text=True, capture_output=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    for claim in ("8 shards of 3 replicas, 3 voter(s)", "nothing was lost", "(learnt;", "2 nodes were killed",
                  "everything as it should be"):
        assert claim in said
