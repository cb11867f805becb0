"""Kinds of ends of a worker process, with Ray's names and a sentence.  Pure.

    the node ended it, for a reason        INTENDED_SYSTEM_EXIT, but memory: NODE_OUT_OF_MEMORY
    the constructor of its actor raised    USER_ERROR, with the text of the exception
    it ended by itself, with exit code 0   INTENDED_USER_EXIT
    any other exit code, any signal        SYSTEM_ERROR
"""

from __future__ import annotations

import signal as signals

INTENDED_SYSTEM_EXIT = "INTENDED_SYSTEM_EXIT"
INTENDED_USER_EXIT = "INTENDED_USER_EXIT"
SYSTEM_ERROR = "SYSTEM_ERROR"
USER_ERROR = "USER_ERROR"
NODE_OUT_OF_MEMORY = "NODE_OUT_OF_MEMORY"
OUT_OF_MEMORY = "out of memory"  # so begins the node's reason for a kill that saves memory
_SENTENCES = {"idle": "it was idle for too long"}  # reasons of the node that are no sentence


def exit_of(reason: str, signal: int, exit_code: int, raised: str = "") -> tuple[str, str]:
    """``(exit type, detail)``.

    ``reason``: why the node ended the process, '' when it did not.  ``raised``: the text of the exception that the
    constructor of its actor raised.
    """
    if raised:
        return USER_ERROR, f"Worker exits because the constructor of its actor raised:\n{raised}"
    if reason.startswith(OUT_OF_MEMORY):
        return NODE_OUT_OF_MEMORY, ("The node killed the worker because the node ran out of memory"
                                    f"{reason.removeprefix(OUT_OF_MEMORY)}.")
    reason = _SENTENCES.get(reason, reason)
    if reason:
        return INTENDED_SYSTEM_EXIT, f"Worker exits by the decision of its node: {reason}."
    if signal:
        return SYSTEM_ERROR, _signalled(signal)
    if exit_code:
        return SYSTEM_ERROR, f"Worker exits unexpectedly with exit code {exit_code}."
    return INTENDED_USER_EXIT, "Worker exits with exit code 0: its code asked for it, or its work was done."


def _signalled(number: int) -> str:
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = (" It may be the kernel's OOM killer (see dmesg), `kill -9`, or a crash of the program that sent it."
            if number == signals.SIGKILL else "")
    return f"Worker exits unexpectedly: {name} ended it.{hint}"
