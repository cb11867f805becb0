"""Runs of fuzz.chaos: a short one with each cheap fault, and a longer one with all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.hosts import may_make_networks
from tests.e2e.scripts import ROOT, environment

pytestmark = pytest.mark.zray_only


def run(tmp_path, *arguments, timeout_s=110):
    done = subprocess.run([sys.executable, "-m", "fuzz.chaos", "--keep", str(tmp_path / "logs"), *arguments], cwd=ROOT,
                          env=environment(PYTHONWARNINGS="default"), text=True, capture_output=True, timeout=timeout_s)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def test_work_of_all_kinds_survives_a_fault_of_each_cheap_kind(tmp_path):
    kinds = ["kill worker", "stop worker", "kill driver", "kill node"]
    said = run(tmp_path, "--here", "--hosts", "3", "--each", "--every", "0.7", "--minutes", "0.06", "--scale", "0.005",
               "--workloads", "tree", "ledger", "nested", "--kinds", *kinds)
    assert all(f"{kind}:" in said for kind in kinds)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not may_make_networks(), reason="this user may not make network namespaces")
def test_two_minutes_of_chaos_with_machines_that_are_cut_off_and_full(tmp_path):
    run(tmp_path, "--seed", "1", "--minutes", "2", "--scale", "0.03", timeout_s=580)
