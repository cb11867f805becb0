"""The parent of a process that the node starts and that starts others: it ends them all with the node.

    daemon  ->  guard  ->  the process, a fork  ->  pip  ->  git, compilers, ...

PR_SET_PDEATHSIG reaches a child and not its children.  So the guard is a subreaper: what loses its parent comes to it,
also from another session.

    the daemon dies, or sends SIGTERM    the guard kills the process and all descendants
    the process ends                     the guard kills what it left, and ends as it did
    the guard is killed                  the process dies with it; the daemon finds the others by their mark
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from zray.node.processes import linux

_WAITED = (signal.SIGTERM, signal.SIGCHLD)


def run_guarded(parent: int, run: Callable[[], None]) -> NoReturn:
    """Run ``run`` in a fork, and be its guard.  ``parent``: the process with which all of it ends.

    Call it with one thread.  It ends this process.
    """
    linux.become_subreaper()
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    linux.die_with_parent(parent, signal.SIGTERM)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _run(guard, run)
    while not _has_ended(child) and signal.sigwait(_WAITED) != signal.SIGTERM:
        pass
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    linux.end_descendants()
    if found is None:
        os._exit(128 + signal.SIGTERM)
    if found.si_code != os.CLD_EXITED:
        os.write(2, f"signal {signal.Signals(found.si_status).name} ended it\n".encode())
        os._exit(128 + found.si_status)
    os._exit(found.si_status)


def _run(guard: int, run: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        linux.die_with_parent(guard)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED)
        run()
        code = 0
    except BaseException:  # the last frame of the process: report the error that ended it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _has_ended(child: int) -> bool:
    """Whether ``child``, which is not collected, has ended.  Others that came here and have ended are collected."""
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == child:
            return True
        os.waitpid(found.si_pid, 0)
    return False
