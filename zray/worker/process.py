"""What a worker process takes on from its job, and how it ends with its node."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

# A line of this form in a worker's output names the task that prints from here on; the node takes it out again.
MARKER = "\x01zray-task:{}\n"


class MarkedStream(io.TextIOWrapper):
    """stdout or stderr of a worker: says which task prints, when that changes.

    A marker per change of task would be two system calls a task; this one costs only tasks that print.
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
            super().write(MARKER.format(name.replace("\n", " ")))
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
    """The driver's import path, working directory and environment; ``import utils`` beside its script works."""
    for name, value in (config.get("env") or {}).items():
        os.environ[name] = value
    cwd = config.get("cwd")
    if cwd:
        with contextlib.suppress(OSError):  # gone by now: the job may not need it
            os.chdir(cwd)
    if logs := config.get("logging"):
        from zray.logging_config import LoggingConfig

        LoggingConfig(**logs).apply()
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


def take_on_environment(env: Mapping[str, str] | None, assigned: Mapping[str, Any], node_has_gpus: bool) -> None:
    """Variables of the runtime environment, and the GPUs this process may see (none unless it asked)."""
    for name, value in (env or {}).items():
        os.environ[name] = str(value)
    if node_has_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in assigned.get("gpu_ids") or ())
