"""The user code that runs when a worker process ends as planned, in this order:

    __ray_shutdown__    of an actor's instance, where it has one
    __del__             of the instance, also when it is part of a cycle
    atexit              the handlers that the process has registered
    files               the buffers of open files are flushed

Planned ends are ``exit_actor``, ``__ray_terminate__``, the last handle gone, ``sys.exit``, SIGTERM to an async or
threaded actor, and the end of a task worker that is no longer needed.  A process that is killed (``ray.kill``, the end
of its job, a removed placement group) runs none of this.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import io
import os
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from zray.worker.process import flush_output

if TYPE_CHECKING:
    from zray.worker.actors.calls import ActorHost

# The time for all steps, as in Ray (actor_graceful_shutdown_timeout_ms): enough to write a large checkpoint.  A
# handler that hangs does not keep the resources of its actor longer.
EXIT_HANDLERS_S = 30.0


def exit_code(error: SystemExit) -> int:
    """The exit code that the interpreter would use; prints the message if the code is one."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def run_exit_handlers(host: ActorHost | None, what: str) -> None:
    """Run all steps on the main thread, when no other user code runs; ``host`` is the ActorHost or None."""
    timer = threading.Timer(EXIT_HANDLERS_S, _overdue, (what,))
    timer.daemon = True
    timer.start()
    left = _end_instance(host) if host is not None else None
    atexit._run_exitfuncs()
    instance = left() if left is not None else None
    if instance is not None and hasattr(type(instance), "__del__"):
        _guarded(type(instance).__del__, instance)  # a global or a thread still has it, so it is never collected
    _flush_files()
    timer.cancel()


def _end_instance(host: ActorHost) -> weakref.ref[Any] | None:
    """Drop the instance; returns a weak reference, in case other code keeps the instance alive."""
    instance = host.instance
    shutdown = getattr(type(instance), "__ray_shutdown__", None)
    if callable(shutdown):
        _guarded(shutdown, instance)
    try:
        left = weakref.ref(instance)
    except TypeError:
        left = None
    del instance, shutdown
    host.forget_instance()
    _flush_files()  # the collector may close the parts of a file in a cycle in the wrong order
    gc.collect()
    return left


def _guarded(function: Any, *args: Any) -> None:
    try:
        function(*args)
    except BaseException:  # the steps after this user code must still run
        traceback.print_exc()


_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def _flush_files() -> None:
    for found in gc.get_objects():
        if issubclass(type(found), _FILES):  # not isinstance, which runs the code of user proxies to dead objects
            try:
                if not found.closed and found.writable():
                    found.flush()
            except (OSError, ValueError, AttributeError):
                continue  # detached, or its descriptor is closed


def _overdue(what: str) -> None:
    print(f"zray: the exit handlers of {what} (__ray_shutdown__, __del__, atexit) have not ended within "
          f"{EXIT_HANDLERS_S:g} s: its process ends now. Its threads are at:", file=sys.stderr)
    flush_output()
    faulthandler.dump_traceback(2, all_threads=True)
    os._exit(1)
