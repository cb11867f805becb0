"""The process that installs one runtime environment: it unpacks packages and builds a virtual environment.

The daemon starts it (zray.node.environments.installer) with a task in JSON on its standard input, and reads the answer
from a file.  A guard (zray.node.processes.guard) ends it and all that it started with the daemon.  Each folder is made
under a lock and gets its name when it is complete, so two installations that share a folder make it once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from zray.environments.setup import addresses
from zray.environments.spec import FSSPEC_SCHEMES, PACKAGE_SCHEME, scheme_of
from zray.node.environments import venvs
from zray.node.environments.venvs import BuildError
from zray.node.processes import guard, linux

DOWNLOAD_SILENCE_S = 60.0  # a server that sends nothing for so long is given up
COMPLETE = ".zray-complete"  # beside a folder whose content is complete


def main() -> None:
    """See the module's docstring.  ``argv[1]`` is the daemon's process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.name_process("zray-install")
    task = json.load(sys.stdin)
    guard.run_guarded(int(sys.argv[1]), lambda: _perform(task))


def _perform(task: dict[str, Any]) -> None:
    try:
        answer = _remove(task["remove"]) if "remove" in task else _install(task)
    except BuildError as error:
        answer = {"error": str(error)}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    with open(task["answer"] + ".part", "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.rename(task["answer"] + ".part", task["answer"])


def _install(task: dict[str, Any]) -> dict[str, Any]:
    parts, root = task["parts"], task["root"]
    folders = {address: _package(root, address, task["stored"].get(address, "")) for address in addresses(parts)}
    used = list(folders.values())
    working_dir = folders.get(parts.get("working_dir"), "")
    equipment: dict[str, Any] = {"working_dir": working_dir,
                                 "paths": [folders[address] for address in parts.get("py_modules", ())]}
    for name in ("pip", "uv"):
        if name in parts:
            made = _virtual_environment(root, name, parts, working_dir, task["parents"])
            used.append(made)
            equipment |= {"venv": made, "site": venvs.site_of(made), "fresh": venvs.brings_loaded(made)}
    return {"equipment": equipment, "sizes": {folder: _size(folder) for folder in used}}


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    with open(path + ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _once(path: str, make: Callable[[], None]) -> str:
    """``path``, made by ``make`` unless it is complete already."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _locked(path):
        if not (os.path.exists(path + COMPLETE) and os.path.isdir(path)):
            shutil.rmtree(path, ignore_errors=True)
            make()
            with open(path + COMPLETE, "w"):
                pass
    return path


def _remove(folders: list[str]) -> dict[str, Any]:
    for path in folders:
        with _locked(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + COMPLETE)
            shutil.rmtree(path, ignore_errors=True)
    return {}


# ---------------------------------------------------------------- packages


def _package(root: str, address: str, stored: str) -> str:
    """The folder with the content of a package."""
    name = hashlib.sha256(address.encode()).hexdigest()[:24]
    path = os.path.join(root, "packages", name)

    def make() -> None:
        if scheme_of(address) == PACKAGE_SCHEME:
            if not stored:
                raise BuildError(f"the package {address} is not stored in this cluster (its job may be over)")
            _unpack(stored, path, address, hoist=False)
        else:
            fetched = path + ".fetched"
            try:
                _download(address, fetched)
                _unpack(fetched, path, address, hoist=not address.endswith(".whl"))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(fetched)

    try:
        return _once(path, make)
    finally:
        if stored:
            os.unlink(stored)


def _download(address: str, target: str) -> None:
    try:
        with _opened(address) as reader, open(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
    except BuildError:
        raise
    except Exception as error:  # each file system of fsspec has errors of its own
        raise BuildError(f"{address} could not be read: {type(error).__name__}: {error}") from error


def _opened(address: str) -> Any:
    scheme = scheme_of(address)
    if scheme not in FSSPEC_SCHEMES:
        import urllib.request

        return urllib.request.urlopen(address, timeout=DOWNLOAD_SILENCE_S)
    try:
        import fsspec
    except ImportError:
        raise BuildError(f"{address} is read through fsspec, which the node does not have: install zray[fsspec] "
                         f"there, and the package of fsspec for {scheme}://") from None
    return fsspec.open(address, "rb")


def _unpack(archive: str, path: str, address: str, *, hoist: bool) -> None:
    """``hoist``: drop a folder that everything is in, as downloads of repositories have it."""
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            made = file.extract(entry, path)
            if entry.external_attr >> 16 & 0o111 and not entry.is_dir():
                os.chmod(made, os.stat(made).st_mode | 0o111)
    os.makedirs(path, exist_ok=True)
    if address.endswith(".whl"):
        _spread_wheel(path, archive)
    names = os.listdir(path)
    if hoist and len(names) == 1 and os.path.isdir(inner := os.path.join(path, names[0])):
        os.rename(inner, path + ".inner")
        os.rmdir(path)
        os.rename(path + ".inner", path)


def _spread_wheel(path: str, archive: str) -> None:
    """Move what a wheel keeps apart (``x.data/purelib``) to its place on the import path."""
    for name in os.listdir(path):
        if not name.endswith(".data"):
            continue
        for kind in ("purelib", "platlib"):
            source = os.path.join(path, name, kind)
            if os.path.isdir(source):
                shutil.copytree(source, path, dirs_exist_ok=True)
        shutil.rmtree(os.path.join(path, name))


# ---------------------------------------------------------------- virtual environments


def _virtual_environment(root: str, name: str, parts: dict[str, Any], working_dir: str, parents: list[str]) -> str:
    fields = parts[name]
    key = [name, fields, parts.get("variables")]
    if any(folder in text for text in (*fields["packages"], *fields.get(f"{name}_install_options", ()))
           for folder in venvs.LOCAL_FOLDER) or any(text.startswith((".", "-")) for text in fields["packages"]):
        key.append(parts.get("working_dir"))
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = os.path.join(root, "venvs", digest)
    return _once(path, lambda: venvs.build(path, name, fields, working_dir, parents))


def _size(folder: str) -> int:
    """Bytes of the files in it; links count nothing."""
    return sum(os.lstat(os.path.join(above, name)).st_size
               for above, _, names in os.walk(folder) for name in names)
