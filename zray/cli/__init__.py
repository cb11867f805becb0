"""The ``zray`` command.  Needs the extra ``default``; the daemon itself, ``zray-node``, does not.

One module for each group of commands; each adds its own to :data:`main`.
"""

from __future__ import annotations

import importlib.util
import sys

if _missing := [name for name in ("click", "rich", "psutil") if importlib.util.find_spec(name) is None]:
    # The core installs without them.
    print(f"the zray command needs {', '.join(_missing)}: pip install 'zray[default]' (zray-node works without)",
          file=sys.stderr)
    sys.exit(1)

from zray.cli import (  # noqa: F401
    acting,
    dashboard,
    debugging,
    doctor,
    jobs,
    listing,
    logs,
    memory,
    metrics,
    nodes,
    profiling,
    programs,
    records,
    replaying,
    reporting,
    sessions,
    stacks,
    status,
    waiting,
)
from zray.cli.commands import main

__all__ = ["main"]
