"""The ``zray`` command.  Needs click (extra ``default``); the daemon itself, ``zray-node``, does not.

One module for each group of commands; each adds its own to :data:`main`.
"""

from __future__ import annotations

import importlib.util
import sys

if importlib.util.find_spec("click") is None:  # the core installs without it
    print("the zray command needs click: pip install 'zray[default]' (zray-node works without)", file=sys.stderr)
    sys.exit(1)

from zray.cli import dashboard, doctor, jobs, listing, metrics, nodes, programs, records, replaying, status, waiting  # noqa: F401
from zray.cli.commands import main

__all__ = ["main"]
