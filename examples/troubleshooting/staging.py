"""What the staged programs share: ``--seconds N`` ends one after N seconds, also while it hangs.

Without it a program runs until Ctrl-C, so that there is time to look for its fault.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable


def run(main: Callable[[], None], description: str | None) -> None:
    """Run ``main``; print the symptom first."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long (default: run until Ctrl-C)")
    seconds = parser.parse_args().seconds
    print((description or "").strip(), flush=True)
    if seconds:
        ending = threading.Timer(seconds, os._exit, (0,))  # the node of init() ends with its driver
        ending.daemon = True
        ending.start()
    main()
