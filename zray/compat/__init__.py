"""Programs written for Ray run on zray without a change: ``import ray`` is zray.

    zray run train.py --epochs 3      the script, its workers and its subprocesses; also `zray run -m package.module`
    python -m zray train.py           the same without the zray command
    python -m pytest -p zray.compat   the tests of a program
    import zray.compat                in a notebook, or as the first lines of a program;
    zray.compat.install()             also as %load_ext zray.compat

``ray`` and ``zray`` are then one module, ``ray.util.queue`` and ``zray.util.queue`` are one, and so on: classes and
exceptions are the same.  A Ray that is installed beside is not touched, and is ``ray`` again in programs without this.
"""

from __future__ import annotations

import os
from typing import Any

from zray.base import ray_names

__all__ = ["install", "is_installed", "uninstall"]


def install(version: str | None = None, *, subprocesses: bool = True) -> None:
    """From now on ``import ray``, ``import ray.x`` and ``from ray.x import y`` are zray's, here and in workers.

    ``version`` is what ``ray.__version__`` and ``importlib.metadata.version("ray")`` say; by default the variable
    ``ZRAY_RAY_VERSION``, else the version of Ray that zray follows.  With ``subprocesses``, this sets PYTHONPATH and
    PATH of this process, so that each Python and each command ``ray`` that it starts do the same.  A second call
    changes the version.  RuntimeError when another ``ray`` is imported already; ValueError for a version that is none.
    """
    version = ray_names.install(version)
    if subprocesses:
        ray_names.pass_on(os.environ, version)


def is_installed() -> bool:
    """Whether ``import ray`` is zray in this process."""
    return ray_names.installed() is not None


def uninstall() -> None:
    """Undo :func:`install`; modules that imported ``ray`` before keep zray."""
    ray_names.uninstall()
    ray_names.withdraw(os.environ)


def pytest_addoption(parser: Any) -> None:
    """``pytest -p zray.compat``: pytest calls this as soon as it has loaded the plugin, before any conftest.py."""
    install()


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext zray.compat``"""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext zray.compat``"""
    uninstall()
