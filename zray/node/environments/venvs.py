"""A virtual environment for pip or uv packages, over the packages of the node's own Python.

The environment's packages come first on the import path, those of the node's Python behind them, as in Ray.  zray
itself and what it needs are among the latter.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from typing import Any

from zray.environments.setup import mask
from zray.node.processes import linux

# Packages that every worker has loaded when it is forked.  An environment that brings another version of one needs a
# process that starts in it; all others are taken on after the fork, which is ten times as fast.
PRELOADED = frozenset(("zray", "numpy", "msgpack", "zmq", "cloudpickle", "sortedcontainers"))
LOCAL_FOLDER = ("${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}", "${ZRAY_RUNTIME_ENV_CREATE_WORKING_DIR}")
ADDRESS_OPTIONS = {"-i": "INDEX_URL", "--index-url": "INDEX_URL", "--extra-index-url": "EXTRA_INDEX_URL",
                   "-f": "FIND_LINKS", "--find-links": "FIND_LINKS", "--default-index": "DEFAULT_INDEX",
                   "--index": "INDEX"}
OUTPUT_KEPT = 4000  # characters of an installer's output in an error


class BuildError(Exception):
    """The environment cannot be built; the text is for the user."""


def build(root: str, name: str, fields: dict[str, Any], working_dir: str, parents: Sequence[str]) -> None:
    """Make the virtual environment ``root``.  ``name``: pip or uv; ``parents``: site directories of the node."""
    shutil.rmtree(root, ignore_errors=True)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    with open(os.path.join(site_of(root), "_zray_parents.pth"), "w", encoding="utf-8") as file:
        for path in parents:
            file.write(f"import site; site.addsitedir({path!r})\n")
    packages = [_expanded(package, working_dir) for package in fields["packages"]]
    requirements = os.path.join(root, "requirements.txt")
    with open(requirements, "w", encoding="utf-8") as file:
        file.write("".join(package + "\n" for package in packages))
    install = _pip if name == "pip" else _uv
    if packages:
        install(root, requirements, fields, working_dir or root)


def site_of(root: str) -> str:
    """Its site-packages."""
    return os.path.join(root, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")


def brings_loaded(root: str) -> bool:
    """Whether it has a package that forked workers have loaded already."""
    return any(entry.partition(".")[0] in PRELOADED for entry in os.listdir(site_of(root))
               if not entry.endswith((".dist-info", ".egg-info")))


def _expanded(package: str, working_dir: str) -> str:
    for name in LOCAL_FOLDER:
        package = package.replace(name, working_dir)
    return package


def _pip(root: str, requirements: str, fields: dict[str, Any], folder: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise BuildError(f"pip is not installed for {sys.executable}, which the node runs: install it there "
                         f"({sys.executable} -m ensurepip), or use 'uv'")
    python = os.path.join(root, "bin", "python")
    plain = ["--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "--python", python]
    if version := fields.get("pip_version"):
        _run([*command, "install", *plain, f"pip{version}"], folder)
        command = [python, "-m", "pip"]
    options, hidden = _without_secrets(fields.get("pip_install_options", ()), "PIP_", folder)
    _run([*command, "install", *plain, *options, "-r", requirements], folder, hidden)
    if fields.get("pip_check"):
        _run([*command, "check"], folder)


def _uv(root: str, requirements: str, fields: dict[str, Any], folder: str) -> None:
    python = os.path.join(root, "bin", "python")
    if version := fields.get("uv_version"):
        _run([sys.executable, "-m", "pip", "--python", python, "install", "--disable-pip-version-check", "--no-input",
              f"uv{version}"], folder)
        command = [os.path.join(root, "bin", "uv")]
    elif found := shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable)):
        command = [found]
    else:
        raise BuildError(f"the node has no uv: install it for {sys.executable} (pip install 'zray[uv]'), or name a "
                         "'uv_version', or use 'pip'")
    options, hidden = _without_secrets(fields.get("uv_pip_install_options", ()), "UV_", folder)
    _run([*command, "pip", "install", "--python", python, *options, "-r", requirements], folder, hidden)
    if fields.get("uv_check"):
        _run([*command, "pip", "check", "--python", python], folder)


def _without_secrets(options: Sequence[str], prefix: str, folder: str) -> tuple[list[str], dict[str, str]]:
    """Options for a command line, which all users of the machine can read, and variables for those with a password."""
    left: list[str] = []
    hidden: dict[str, str] = {}
    waiting = [_expanded(option, folder) for option in options]
    while waiting:
        option = waiting.pop(0)
        name, given, value = option.partition("=")
        if name in ADDRESS_OPTIONS and not given and waiting:
            value = waiting.pop(0)
        if name in ADDRESS_OPTIONS and mask(value) != value:
            variable = prefix + ADDRESS_OPTIONS[name]
            hidden[variable] = f"{hidden[variable]} {value}" if variable in hidden else value
        elif name in ADDRESS_OPTIONS:
            left += [name, value]
        else:
            left.append(option)
    return left, hidden


def _run(command: list[str], folder: str, hidden: dict[str, str] | None = None) -> None:
    """Run an installer; its output goes to the log, and the end of it into the error."""
    builder = os.getpid()
    print("$", mask(" ".join(command)), flush=True)
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace",
                          preexec_fn=lambda: linux.die_with_parent(builder), env={**os.environ, **(hidden or {})})
    output = mask(done.stdout)
    print(output, flush=True)
    if done.returncode:
        said = output.strip()[-OUTPUT_KEPT:]
        raise BuildError(f"the command {mask(' '.join(command))} failed with exit code {done.returncode}:\n{said}")
