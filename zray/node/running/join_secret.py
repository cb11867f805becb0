"""Sources of a join string, and how it stays a secret: its reader may run code in the cluster.

Every user of a machine can read the command lines of all processes, and all code in a worker can
read its environment.  So a join string reaches a daemon by a file, a descriptor or an environment
variable.  A join string in the command line or the environment is overwritten in this process
before it forks, and not passed on.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

from zray.base.formats import JOIN_SCHEME

VARIABLE = "ZRAY_JOIN"  # a join string, or @FILE, for a node that is started without an address
FILE_NAME = "join"  # in the session directory, mode 0600
BYTES_MAX = 4096  # a join string has about 250
_SECRET_PART = re.compile(r"(zray://[^/\s]*/)[\w=-]+")


class NoJoinString(ValueError):
    """The named source has no join string; the message is one sentence for the user."""


def join_string(given: str, environ: Mapping[str, str] = os.environ, head: bool = False) -> str:
    """The join string that ``--address GIVEN`` names: itself, ``@FILE``, or ``-`` for the standard input.

    Without one it is the value of ``ZRAY_JOIN``; '' where that is not set or the node is the
    ``head`` of a new cluster.
    """
    named = given or ("" if head else environ.get(VARIABLE, "").strip())
    if named == "-":
        return _checked(sys.stdin.read(BYTES_MAX + 1), "the standard input")
    if named.startswith("@"):
        return read_file(named[1:])
    if named and not named.startswith(JOIN_SCHEME) and os.path.isfile(named):
        raise NoJoinString(f"{named!r} is a file: write --address @{named} to join by the join string in it")
    return named


def read_file(path: str) -> str:
    """The join string in a file."""
    try:
        with open(path, encoding="utf-8") as file:
            return _checked(file.read(BYTES_MAX + 1), repr(path))
    except OSError as error:
        raise NoJoinString(f"cannot read a join string from {path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NoJoinString(f"there is no join string in {path!r}: it is not text") from None


def _checked(text: str, where: str) -> str:
    text = "".join(text.split())
    if not text:
        raise NoJoinString(f"there is no join string in {where}: it is empty")
    if len(text) > BYTES_MAX:
        raise NoJoinString(f"there is no join string in {where}: it has more than {BYTES_MAX} bytes")
    return text


def descriptor(secret: str) -> int:
    """A descriptor from which another process can read ``secret``."""
    handle = os.memfd_create(FILE_NAME)
    os.write(handle, secret.encode())
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def read_descriptor(handle: int) -> str:
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read()


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a daemon, and so for its workers."""
    return {name: value for name, value in environ.items()
            if name != VARIABLE and not value.lstrip().startswith(JOIN_SCHEME)}


def hide(text: str) -> str:
    """Replace the secret part of each join string in a text by "...", for errors and tables."""
    return _SECRET_PART.sub(r"\1...", text)


def blank_own() -> None:
    """Overwrite join strings in the command line and the environment that /proc shows of this process."""
    from zray.base.os_linux import blank_start_area

    given = {os.fsencode(argument) for argument in sys.orig_argv if JOIN_SCHEME in argument}
    given |= {os.fsencode(os.environ[name]) for name in os.environ.keys() - without_secrets(os.environ).keys()}
    if given:
        blank_start_area(given)


def forget_own() -> None:
    """The same, and remove them from ``os.environ``, which forked children inherit."""
    blank_own()
    for name in os.environ.keys() - without_secrets(os.environ).keys():
        del os.environ[name]
