"""Environment variables of runtime environments: checked, merged, expanded; which of them count only at exec.  Pure.

Workers are forked from a process that has done its imports.  A variable that Python, the C library or a loaded library
reads once, at its start, does nothing there.  A worker for such variables is exec'd afresh (``needs_exec``).  All
others are put into ``os.environ`` after the fork, where the user's imports and subprocesses read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Variables that are read once at the start of a process, or when a library that the zygote has
# loaded (numpy, its BLAS) is loaded:
#   LD_ MALLOC_ GLIBC_      the dynamic loader and the C library
#   LC_ LANG LANGUAGE ...   the locale that Python takes its encodings from
#   PYTHON                  the interpreter; PYTHONPATH is applied after the fork (sys.path)
#   NPY_ NUMPY_, OPENBLAS_ GOTO_ MKL_ BLIS_     numpy and its BLAS; their numbers of threads can be set at any time
EXEC_PREFIXES = ("LD_", "MALLOC_", "GLIBC_", "LC_", "PYTHON", "NPY_", "NUMPY_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_")
EXEC_NAMES = frozenset(("LANG", "LANGUAGE", "LOCPATH", "GCONV_PATH", "NLSPATH"))
# Number of threads of the loaded BLAS: the first that is set counts, as in OpenBLAS.  The variants
# of OMP_NUM_THREADS (MKL, BLIS and NumExpr too) fall back to it, so it is the only one that zray
# sets by itself.
OMP = "OMP_NUM_THREADS"
THREAD_NAMES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", OMP)
FORK_NAMES = frozenset(("PYTHONPATH", *THREAD_NAMES))

_REFERENCE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


def check(env: Any) -> None:
    """TypeError or ValueError for an invalid value of ``env_vars``."""
    what = "runtime_env['env_vars']"
    if not isinstance(env, Mapping):
        raise TypeError(f"{what} must be of type Dict[str, str], not {env!r}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            wrong = value if isinstance(name, str) else name
            raise TypeError(f"{what} must be of type Dict[str, str], but {name!r}: {value!r} has a "
                            f"{type(wrong).__name__}; write {str(name)!r}: {str(value)!r}")
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{what} has the name {name!r}, which no environment variable can have: a name is not "
                             "empty and has neither '=' nor a null character")
        if "\0" in value:
            raise ValueError(f"{what} has a null character in the value of {name!r}, which no variable can hold")
        try:
            (name + value).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} has a lone surrogate in {name!r}: {value!r}, which is no text") from None


def merged(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The variables of a child: the inherited ones, with its own over them; not expanded yet."""
    return {**inherited, **own} if inherited else dict(own)


def expand(env: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """``env`` with ``$NAME`` and ``${NAME}`` replaced by values of ``environ``, or of earlier entries.

    As in Ray, ``${NAME}`` of an unknown variable is empty, and ``$NAME`` of one stays as it is.
    """
    out: dict[str, str] = {}

    def value_of(found: re.Match[str]) -> str:
        name = found[1] or found[2] or ""
        value = out.get(name, environ.get(name))
        return value if value is not None else found[0] if found[1] else ""

    for name, text in env.items():
        out[name] = _REFERENCE.sub(value_of, text) if "$" in text else text
    return out


def needs_exec(env: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether ``env`` changes a variable that counts only at the start of a process with environment ``environ``."""
    return any(environ.get(name) != env[name] for name in at_exec(env))


def at_exec(env: Mapping[str, str]) -> list[str]:
    """Names in ``env`` that count only at the start of a process."""
    return [name for name in env if (name.startswith(EXEC_PREFIXES) or name in EXEC_NAMES) and name not in FORK_NAMES]


def threads_for(resources: Mapping[str, float]) -> int:
    """Threads that numeric libraries should use on the resources of a lease: its whole CPUs, at least one."""
    return max(1, int(resources.get("CPU", 0)))


def thread_names(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for numbers of threads that are set."""
    return {name: environ[name] for name in THREAD_NAMES if name in environ}


def blas_threads(environ: Mapping[str, str]) -> int | None:
    """The number of threads that a BLAS takes from ``environ``; None when it names none."""
    for name in THREAD_NAMES:
        found = re.match(r"\s*(\d+)", environ.get(name, ""))
        if found and int(found[1]) > 0:
            return int(found[1])
    return None


def at_start(env: Mapping[str, str], threads: int, drivers: Mapping[str, str],
             environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a worker that is exec'd: the node's, the driver's threads, and ``env`` over them."""
    out = {**environ, **drivers}
    out.update(expand(env, out))
    out.setdefault(OMP, str(threads))
    return out
