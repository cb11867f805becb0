"""Settings for the whole suite: Hypothesis is deterministic unless told to explore.

``HYPOTHESIS_PROFILE=explore`` searches new examples; the default replays the same ones everywhere, so that a red run
on one machine is red on the next.  SIGINT does what it does at a terminal, even where a shell started the run in the
background, which ignores it: the tests of Ctrl-C would wait for ever.

The tests start some thousand interpreters.  Where PYTHONDONTWRITEBYTECODE forbids compiled files in the checkout, they
share a temporary folder of them: compiling all modules anew costs each process a quarter of a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and children inherit that

COMPILED = tempfile.mkdtemp(prefix="zray-tests-compiled-") if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") else ""
if COMPILED:
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = COMPILED
    sys.dont_write_bytecode = False


@pytest.fixture(autouse=True, scope="module")
def python_handles_sigint() -> None:
    """No module begins with a handler that one before it left: a loop takes SIGINT only from Python's own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    if COMPILED:
        shutil.rmtree(COMPILED, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-transcripts", action="store_true",
                     help="write into tests/transcripts what its commands lead to now")
