"""Transfers between simulated nodes, by seed: ``python -m fuzz.fuzz_transfer --seconds 60``.

Each seed is one schedule of puts, reads, frees, deaths and silences (tests/sim/test_transfer_sim.py).
"""

from __future__ import annotations

from fuzz.command import by_seed, past_failures
from tests.sim.test_transfer_sim import run_schedule

if __name__ == "__main__":
    raise SystemExit(by_seed(run_schedule, __doc__, past_failures("transfer")))
