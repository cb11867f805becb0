"""Settings for the whole suite: Hypothesis is deterministic unless told to explore.

``HYPOTHESIS_PROFILE=explore`` searches new examples; the default replays the same ones everywhere, so that a red run
on one machine is red on the next.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
