"""The process of one driver: rounds of one workload until SIGTERM, with events as lines of JSON.

    round    a round ended with the right value
    step     progress within a round; may have ``owner``, the pid of a process that owns objects
    error    a round ended with an error of zray: the supervisor decides whether a fault excuses it
    waits    a wait takes long, and why, as zray explains it
    failure  a wrong value, a wait without end, or another exception; the process ends with 1 some time later
    lost     the node of this driver died; the process ends with 0, another takes its place
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

import zray as ray
from fuzz.chaos.processes import die_with_parent
from fuzz.chaos.workloads import WORKLOADS
from fuzz.chaos.workloads.base import Stalled, Workload, Wrong
from zray.exceptions import LocalRayletDiedError, RayError, RayTaskError

AFTER_ERROR_S = 0.2
HOLD_S = 60.0  # the driver stays this long after a failure, so that it can be asked what it waits for


def say(what: str, **facts: Any) -> None:
    line = json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n"
    os.write(EVENTS, line.encode())


EVENTS = 1


def of_zray(error: BaseException) -> str:
    """The name of the error of zray that this is, or that is its cause; '' for an error of the workload itself."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return of_zray(cause) if isinstance(cause, BaseException) else ""
    return type(error).__name__ if isinstance(error, RayError) else ""


def work(workload: Workload) -> int:
    """Rounds for ever; the exit code when it must end."""
    fresh, number = True, 0
    while True:
        began = time.monotonic()
        try:
            if fresh:
                workload.start()
            fresh = False
            workload.round(number)
        except LocalRayletDiedError as error:
            say("lost", error="LocalRayletDiedError", text=str(error), began=began)
            return 0
        except (Wrong, Stalled) as error:
            say("failure", error=type(error).__name__, text=str(error), began=began)
            time.sleep(HOLD_S)
            return 1
        except Exception as error:
            name = of_zray(error)
            say("error" if name else "failure", error=name or type(error).__name__, began=began,
                text=traceback.format_exc())
            if not name:
                return 1
            fresh = True
            time.sleep(AFTER_ERROR_S)
        else:
            say("round", began=began, number=number)
        number += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=list(WORKLOADS))
    parser.add_argument("--address", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    die_with_parent()
    global EVENTS
    EVENTS = os.dup(1)
    os.dup2(2, 1)  # what workers print is no event
    faulthandler.register(signal.SIGUSR2, file=sys.stderr)
    began = time.monotonic()
    workload = WORKLOADS[options.name](options.seed, options.scale, say)
    try:
        ray.init(address=options.address, namespace="chaos", log_to_driver=False)
    except (ConnectionError, LocalRayletDiedError) as error:
        say("lost", error="LocalRayletDiedError", text=f"init: {error}", began=began)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say("step")
    try:
        return work(workload)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    raise SystemExit(main())
