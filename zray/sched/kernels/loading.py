"""How scheduling kernels get into a process: plain ones at once, compiled ones on request.

``Kernels.plain()`` costs nothing.  ``Kernels.load()`` imports numpy and Numba (some 100 MB, and up to 144 ms during
which other threads stall), compiles or reads from the cache, tries every kernel against its plain twin, and may run in
a background thread.  It never fails for the sake of the cache.

Numba's cache files are pickles: a user who can plant one runs code here.  So compiled code is cached only in a
directory that is ours, mode 0700, below directories in which no other user can rename things; never beside the source.
The name of the directory is a digest of the source and the versions, so no stale code is ever read, whatever the file
times say.  A directory of ours that others could write to is emptied first; one that is not ours is left alone and not
used.  When anything fails with the cache (no writable home, truncated files, ...), it is deleted and the kernels are
compiled without.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

from zray.base.os_linux import remove_tree, temporary_directory
from zray.base.ports import Ports
from zray.sched.kernels import plain

KERNEL_NAMES = ("pick_hybrid", "pick_spread", "place_batch", "pack_bundles")
_MODULE = "zray.sched.kernels.compiled"

# Read by zray.sched.kernels.compiled while it is being imported; True only inside ``_import_kernels``.
caching = False
_lock = threading.Lock()
_loaded: Kernels | None = None


class Kernels(Ports):
    """The kernels of one form, and how to make arguments for them."""

    compiled: bool
    cache: str  # the cache directory in use; when '', ``why`` gives the reason
    why: str
    vector: Callable[[Iterable[int]], Any]
    matrix: Callable[[Iterable[Iterable[int]], int], Any]  # rows, number of columns
    pick_hybrid: Callable[..., int]
    pick_spread: Callable[..., int]
    place_batch: Callable[..., int]
    pack_bundles: Callable[..., int]

    @classmethod
    def plain(cls) -> Kernels:
        """The plain-Python twin, on lists."""
        return _PLAIN

    @classmethod
    def load(cls, base: str | None = None) -> Kernels:
        """The compiled kernels, once a process.  ``base``: a directory to cache in if the user's own cannot be used."""
        global _loaded
        with _lock:
            if _loaded is None:
                _loaded = _load(base)
            return _loaded

    @classmethod
    def loaded(cls) -> Kernels | None:
        """The compiled kernels if this process has them already."""
        return _loaded


def _vector(values: Iterable[int]) -> list[int]:
    return list(values)


def _matrix(rows: Iterable[Iterable[int]], width: int) -> list[list[int]]:
    return [[*row, *[0] * (width - len(row))] for row in map(list, rows)]


_PLAIN = Kernels(False, "", "plain Python", _vector, _matrix, *(getattr(plain, name) for name in KERNEL_NAMES))


# ------------------------------------------------------------------ compiled kernels

def _load(base: str | None) -> Kernels:
    directory, why = _cache_directory(base)
    if directory is not None:
        try:
            return _import_kernels(str(directory), "")
        except Exception as error:  # unpickling a damaged file may raise any error; the kernels work without the cache
            remove_tree(str(directory))
            why = f"the cache in {directory} failed ({type(error).__name__}: {error}) and was deleted"
    return _import_kernels("", why)


def _import_kernels(directory: str, why: str) -> Kernels:
    """Import zray.sched.kernels.compiled afresh, with its cache in ``directory`` ('' for none), and try every
    kernel."""
    global caching
    import numpy as np
    from numba.core import config as numba_config

    config: Any = numba_config  # its attributes are made at run time

    def vector(values: Iterable[int]) -> Any:
        return np.array(list(values), dtype=np.int64)

    def matrix(rows: Iterable[Iterable[int]], width: int) -> Any:
        return np.array(_matrix(rows, width), dtype=np.int64).reshape(-1, width)

    sys.modules.pop(_MODULE, None)
    # Both are read when the functions are decorated.
    before, config.CACHE_DIR, caching = config.CACHE_DIR, directory, bool(directory)
    try:
        module = import_module(_MODULE)
    finally:
        config.CACHE_DIR, caching = before, False
    kernels = Kernels(True, directory, why, vector, matrix, *(getattr(module, name) for name in KERNEL_NAMES))
    _try_out(kernels)
    return kernels


def _try_out(kernels: Kernels) -> None:
    """Compile (or read) each kernel now, and compare with the twin: damaged code must not decide placements."""
    total, free = [[40_000, 0], [20_000, 10_000], [0, 0]], [[40_000, 0], [5_000, 10_000], [0, 0]]
    for name, arguments in (
        ("pick_hybrid", ([1, 1, 0], [10_000, 0], 500_000, -1, 1)),
        ("pick_spread", ([1, 1, 0], [5_000, 0], 1)),
        ("place_batch", ([1, 1, 0], [[10_000, 0], [0, 10_000]], [0, 1, 1, 0, 0, 0, 0], 500_000, 1, [0] * 7)),
        *(("pack_bundles", ([1, 1, 0], [[10_000, 0], [5_000, 0]], strategy, [0] * 2)) for strategy in range(4)),
    ):
        outcomes = []
        for form in (_PLAIN, kernels):
            given = [_argument(form, value) for value in (total, free, *arguments)]
            outcomes.append([int(getattr(form, name)(*given)), *(_listed(value) for value in given)])
        if outcomes[0] != outcomes[1]:
            raise RuntimeError(f"kernel {name} does not compute what its twin does")


def _argument(form: Kernels, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return form.matrix(value, len(value[0])) if isinstance(value[0], list) else form.vector(value)


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


# ------------------------------------------------------------------ where compiled code may be kept

def _cache_directory(base: str | None) -> tuple[Path | None, str]:
    """A private directory for this source and these versions; or None and the reason."""
    reasons = []
    for parent in _candidates(base):
        try:
            private = _private(parent)
            return _private(private / f"kernels-{_digest()}"), ""
        except (OSError, ValueError) as error:
            reasons.append(f"{parent}: {error}")
    return None, "no private directory to cache in: " + "; ".join(reasons)


def _candidates(base: str | None) -> list[Path]:
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    places = [Path(user_cache) / "zray"] if os.path.isabs(user_cache) else []
    if base:
        places.append(Path(base) / "kernels")
    places.append(Path(temporary_directory()) / f"zray-{os.geteuid()}" / "kernels")
    return places


def _private(path: Path) -> Path:
    """Make ``path`` a directory that only we can reach, emptied if others could have written to it; or OSError."""
    for above in reversed(path.parents):
        if not above.exists():
            above.mkdir(mode=0o700, exist_ok=True)
    path = path.parent.resolve(strict=True) / path.name
    for above in path.parents:
        _refuse_foreign(above)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode):
            raise PermissionError(f"{path} is not a directory") from None
        if state.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to user {state.st_uid}") from None
        if stat.S_IMODE(state.st_mode) & 0o022:  # another user could have put files there
            remove_tree(str(path))
            path.mkdir(mode=0o700)
        elif stat.S_IMODE(state.st_mode) != 0o700:
            path.chmod(0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} is not writable")
    return path


def _refuse_foreign(above: Path) -> None:
    """A directory in which another user could swap a path below for one of their own."""
    state = above.stat()
    if state.st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{above} belongs to user {state.st_uid}")
    if stat.S_IMODE(state.st_mode) & 0o022 and not state.st_mode & stat.S_ISVTX:
        raise PermissionError(f"others can write to {above}")


def _digest() -> str:
    """A digest of everything that compiled code depends on."""
    from llvmlite import __version__ as llvmlite_version
    from numba import __version__ as numba_version
    from numpy import __version__ as numpy_version

    source = Path(__file__).with_name("compiled.py").read_bytes()
    versions = "|".join((sys.version, numba_version, llvmlite_version, numpy_version))
    return blake2b(source + versions.encode(), digest_size=8).hexdigest()
