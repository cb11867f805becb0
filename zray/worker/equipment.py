"""What the node has installed of a runtime environment, taken on by a worker: folder, import path, Python, hook.

``equipment`` comes with the job's configuration: working_dir, paths (of py_modules), venv, site; or error.
"""

from __future__ import annotations

import importlib
import os
import site
import sys
from collections.abc import Callable, Mapping
from typing import Any

from zray.base.frames import format_error
from zray.environments.spec import HOOK_SCHEME
from zray.values import serialization

PARENTS_FILE = "_zray_parents.pth"  # leads to packages that this process has on its path already


def take_on(equipment: Mapping[str, Any]) -> None:
    """Before user code, once.  OSError when a folder is gone."""
    if venv := equipment.get("venv"):
        _enter(venv, equipment["site"])
    folder = equipment.get("working_dir") or ""
    paths = [path for path in (folder, *equipment.get("paths", ())) if path]
    if folder:
        os.chdir(folder)
    if paths:
        sys.path[:] = paths + [entry for entry in sys.path if entry not in paths]
        before = os.environ.get("PYTHONPATH")  # for processes that user code starts
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, before] if before else paths)
        importlib.invalidate_caches()


def _enter(venv: str, packages: str) -> None:
    """Act as the Python of the virtual environment, in a fork of the node's Python or in its own process."""
    os.environ["VIRTUAL_ENV"] = venv
    os.environ["PATH"] = os.path.join(venv, "bin") + os.pathsep + os.environ.get("PATH", os.defpath)
    if sys.prefix == venv:
        return
    sys.prefix = sys.exec_prefix = venv
    sys.executable = os.path.join(venv, "bin", "python")
    known = {entry for entry in sys.path if entry}
    at = next((place for place, entry in enumerate(sys.path) if entry.endswith("-packages")), len(sys.path))
    rest = sys.path[at:]
    del sys.path[at:]
    sys.path.append(packages)
    for name in sorted(os.listdir(packages)):
        if name.endswith(".pth") and name != PARENTS_FILE:
            site.addpackage(packages, name, known)
    sys.path += rest
    importlib.invalidate_caches()


def run_hook(hook: str, fetch: Callable[[bytes], bytes]) -> str:
    """Run the setup hook of a runtime environment; returns why it failed, or ''."""
    name = hook
    try:
        if hook.startswith(HOOK_SCHEME):
            key, _, name = hook.removeprefix(HOOK_SCHEME).partition(":")
            function: Any = serialization.load_function(fetch(bytes.fromhex(key)))
        else:
            module, _, attribute = hook.rpartition(".")
            function = getattr(importlib.import_module(module), attribute)
        function()
    except BaseException as error:  # sys.exit() too; no cancel interrupts a hook, which runs before the first task
        shown = format_error(error, error.__traceback__)
        return f"Failed to execute the setup hook method {name}:\n{shown}"
    return ""
