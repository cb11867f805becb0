"""The environment of a worker process: output, import path, variables, threads and GPUs, from its job and lease."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from zray.base import env_vars, ray_names
from zray.base.formats import TASK_MARKER


class MarkedStream(io.TextIOWrapper):
    """stdout or stderr of a worker: writes a marker when another task begins to print.

    A marker at each change of task would be two system calls a task; so only tasks that print cost something.
    """

    def __init__(self, descriptor: int, context: Any):
        raw = io.FileIO(descriptor, "w", closefd=False)
        buffer = io.BufferedWriter(raw, 64 * 1024)
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._context = context
        self._last = ""
        self._fresh = True  # at the start of a line

    def write(self, text: str) -> int:
        name = self._context.task_name
        if name != self._last and text:
            if not self._fresh:
                super().write("\n")
            self._last = name
            super().write(TASK_MARKER + name.replace("\n", " ") + "\n")
        if text:
            self._fresh = text[-1] == "\n"
        return super().write(text)


def mark_output(context: Any) -> None:
    """Send print and tracebacks through marked streams."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            getattr(sys, name).flush()
        try:
            stream = MarkedStream(descriptor, context)
        except OSError:
            continue  # closed: a worker without output
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def take_on_job(config: Mapping[str, Any]) -> None:
    """The driver's import path and working directory; ``import utils`` beside its script works."""
    cwd = config.get("cwd")
    if cwd:
        with contextlib.suppress(OSError):  # the directory may be gone, and the job may not need it
            os.chdir(cwd)
    if logs := config.get("logging"):
        from zray.core.logging_config import LoggingConfig

        LoggingConfig(**logs).apply()
    if version := config.get("ray_version"):
        ray_names.install(version)
    if os.path.isfile(script := config.get("script") or ""):
        _name_script(script)
    paths = [path for path in (config.get("script_dir"), *(config.get("sys_path") or ())) if path is not None]
    known = set(sys.path)
    fresh = []
    for path in paths:
        if path == "":
            path = cwd or ""
        if path not in known:
            known.add(path)
            fresh.append(path)
    sys.path[:0] = fresh


def _name_script(path: str) -> None:
    """Set the file of ``__main__``: ``inspect.getsource`` of a class reads it.

    A process that multiprocessing spawns would run that file again.  It does not when ``__main__`` was started by
    module name, as for packages; so set such a spec.
    """
    main = sys.modules["__main__"]
    main.__file__ = path
    main.__spec__ = ModuleSpec("__main__", None)


def take_on_environment(env: Mapping[str, str], assigned: Mapping[str, Any], config: Mapping[str, Any], *,
                        started_under: bool, node_has_gpus: bool) -> None:
    """Set variables, threads and GPUs before user code runs.  Once: a worker serves one environment.

    ``config`` is the job's; ``started_under``: the process was started (exec) with these variables.
    """
    if not started_under:
        _set_variables(env, config)
    if "PYTHONPATH" in env:
        _put_on_path(os.environ["PYTHONPATH"], config)
    if version := config.get("ray_version"):
        ray_names.pass_on(os.environ, version)
    _limit_threads(env_vars.threads_for(assigned.get("resources") or {}), started_under)
    if node_has_gpus and "CUDA_VISIBLE_DEVICES" not in env:
        _show_gpus(assigned.get("gpu_ids") or ())


def _set_variables(env: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Set the variables that still have an effect in the fork of a running process."""
    for name, value in (config.get("threads") or {}).items():
        os.environ[name] = value
    if not env:
        return  # as in most workers: each page that they write to is no longer shared with the zygote
    os.environ.update(env_vars.expand(env, os.environ))
    if "TZ" in env or "TZDIR" in env:
        time.tzset()
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # read TMPDIR and the like again


def _limit_threads(threads: int, started_under: bool) -> None:
    """Set OMP_NUM_THREADS to the CPUs of the lease, unless a variable is set already; then the loaded BLAS."""
    said = env_vars.thread_names(os.environ)
    if env_vars.OMP not in said:
        os.environ[env_vars.OMP] = str(threads)
    count = (env_vars.blas_threads(said) if said else None) or threads
    if not started_under and count != 1:  # the zygote's BLAS has one
        from zray.worker import blas

        blas.set_threads(count)


def _put_on_path(text: str, config: Mapping[str, Any]) -> None:
    """Put PYTHONPATH after the script's folder and before the rest, as Python does at its start."""
    wanted = [os.path.abspath(entry) for entry in text.split(os.pathsep) if entry]
    first = sys.path[:1] if sys.path[:1] == [config.get("script_dir")] else []
    rest = [entry for entry in sys.path[len(first):] if entry not in wanted]
    sys.path[:] = first + [entry for entry in dict.fromkeys(wanted) if entry not in first] + rest


def _show_gpus(gpu_ids: Sequence[int | str]) -> None:
    """Set CUDA_VISIBLE_DEVICES to the GPUs of the lease.  Without GPUs, or if the user asks, leave it unchanged."""
    if _is_on("NOSET_CUDA_VISIBLE_DEVICES", "EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"):
        return
    if gpu_ids or _is_on("ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpu_ids))


def _is_on(*names: str) -> bool:
    """Whether one of these names, with the prefix ZRAY_ or RAY_, is set to a true value."""
    values = (os.environ.get(prefix + name, "") for name in names for prefix in ("ZRAY_", "RAY_"))
    return any(value.lower() not in ("", "0", "false") for value in values)
