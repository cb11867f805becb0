"""Objects whose owners die, by seed: ``python -m fuzz.fuzz_adoption --seconds 60``.

Each seed is one schedule of objects made, passed on and dropped, of deaths, and of the sweeps of the store that follow
them (tests/oracles/adoption_world.py).
"""

from __future__ import annotations

from fuzz.command import by_seed, past_failures
from tests.oracles.adoption_world import run_schedule

if __name__ == "__main__":
    raise SystemExit(by_seed(run_schedule, __doc__, past_failures("adoption")))
