"""The output of workers appears in the test or cell that caused it: both wait for it when they end.

A result may reach the driver before the lines that its task printed: these go through a file and the node.  A wait in
each ``get`` would cost every program a tenth of a second.  So only pytest (zray.util.pytest_output) and IPython ask
for the lines, after the code of a test or cell has run.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from zray.api.driver_log import Screen
from zray.handles.connection import current

OUTPUT_WAIT_S = 1.0  # a node answers within milliseconds; a dead one must not delay each test


def begin(runtime: Any) -> None:
    """Print the output of this driver's workers from now on."""
    screen = Screen(later=runtime.turns.later)
    runtime.screen = screen
    runtime.driver_log = screen.show
    _drain_after_cells()


def drain() -> None:
    """Show what the workers of this driver have printed so far, and the counts of folded lines.

    Does nothing in other processes, and nothing without a session.  Never raises.
    """
    runtime = current()
    screen = getattr(runtime, "screen", None)
    if runtime is None or screen is None:
        return
    with contextlib.suppress(Exception):  # the node is gone: the program's next call says so
        runtime.query("output", OUTPUT_WAIT_S)
    with runtime.loop.lock:
        screen.end()


def _drain_after_cells() -> None:
    """Register :func:`drain` with the IPython that runs this program, if one does."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and _after_cell not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _after_cell)


def _after_cell(result: Any) -> None:
    drain()
