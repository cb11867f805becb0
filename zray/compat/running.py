"""Run a program with ``ray`` as zray: replace this process by a Python, or a command, whose environment says so.

A new process and not this one: then its ``__main__``, its ``sys.path``, its tracebacks, what multiprocessing reads of
it, and its flags are those of ``python script.py``.  That costs the start of a Python, some 20 ms.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from zray.base import ray_names

USAGE = "SCRIPT [ARGUMENT ...], -m MODULE [ARGUMENT ...], -c CODE [ARGUMENT ...], or PROGRAM [ARGUMENT ...]"


class CannotRun(ValueError):
    """There is no such program, or it cannot see zray as ray; the message is one sentence."""


def run(arguments: Sequence[str], version: str | None = None, record: str | None = None, post_mortem: bool = False
        ) -> NoReturn:
    """Become the program in ``arguments``, see USAGE; CannotRun has the reason why not.

    ``record``: the folder in which the run is recorded (CannotRecord).  Then sets of strings have one order in all
    of its processes and in a replay, unless PYTHONHASHSEED is set already.  ``post_mortem``: tasks that raise wait for
    ``zray debug``.
    """
    command = command_of(arguments)
    try:
        version = ray_names.install(version)
    except (RuntimeError, ValueError) as error:
        raise CannotRun(str(error)) from None
    environ = dict(os.environ)
    ray_names.pass_on(environ, version)
    if record is not None:
        from zray.recording import files

        environ["ZRAY_RECORD"] = files.claim(record)
        environ[files.RECORDING_TOKEN] = os.environ[files.RECORDING_TOKEN]
        environ.setdefault("PYTHONHASHSEED", "0")
    if post_mortem:
        environ["ZRAY_DEBUG_POST_MORTEM"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(command[0], command, environ)
    except OSError as error:
        raise CannotRun(f"cannot run {command[0]!r}: {error.strerror}") from None


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command line for ``arguments``: this Python with its flags, unless they name a program on the PATH."""
    if sys.flags.ignore_environment:  # -E, -I
        raise CannotRun("python -E and -I ignore PYTHONPATH, through which ray becomes zray: run it without them, or "
                        "call zray.compat.install() in the program")
    if not arguments:
        raise CannotRun(f"nothing to run: give {USAGE}")
    first = arguments[0]
    if first in ("-m", "-c"):
        if len(arguments) < 2:
            raise CannotRun(f"{first} takes an argument: give {USAGE}")
    elif first.startswith("-") and first != "-":
        raise CannotRun(f"{first!r} is no option of a program: give {USAGE}")
    elif first != "-" and not os.path.exists(first):
        program = shutil.which(first)
        if program is None:
            raise CannotRun(f"there is no file and no program {first!r}")
        return [program, *arguments[1:]]
    elif _is_program(first):
        return [os.path.abspath(first), *arguments[1:]]
    return [sys.executable, *subprocess._args_from_interpreter_flags(), *arguments]  # type: ignore[attr-defined]


def _is_program(path: str) -> bool:
    """An executable that the system can start: a script with an interpreter line, or a binary; not ``x.py``."""
    if not os.path.isfile(path) or not os.access(path, os.X_OK) or path.endswith(".py"):
        return False
    with open(path, "rb") as file:
        return file.read(4).startswith((b"#!", b"\x7fELF"))
