"""Read the log of a submitted job: here, or by a task on the node that has it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import zray as ray
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOG_PIECE_BYTES = 1 << 20
READ_TIMEOUT_S = 30.0


def machine_id() -> str:
    """The same for all processes that see the same files: this boot of this machine, and its root."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    root = os.stat("/")
    return f"{boot}-{root.st_dev}-{root.st_ino}"


def read_piece(row: dict[str, Any], offset: int) -> bytes:
    """Up to LOG_PIECE_BYTES of the log from ``offset``; b"" at its end, or before the job has one.

    RuntimeError, naming the node, when the log was on a machine that is gone.
    """
    path = row.get("log")
    if not path:
        return b""
    if row.get("machine") == machine_id():
        return _read(path, offset)
    return _ask(row, _read_there, path, offset)


def remove(row: dict[str, Any]) -> None:
    """Delete the log, where it can be reached."""
    path = row.get("log")
    if path and row.get("machine") == machine_id():
        _remove(path)
    elif path:
        with contextlib.suppress(RuntimeError):
            _ask(row, _remove_there, path)


def _ask(row: dict[str, Any], task: Any, *args: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(row["driver_node_id"], soft=False)
    try:
        return ray.get(task.options(scheduling_strategy=there).remote(*args), timeout=READ_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"the log of job {row['submission_id']} is on node {row['driver_node_id']} "
                           f"({row.get('driver_host', '')}), which does not answer: {error}") from None


def _read(path: str, offset: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(LOG_PIECE_BYTES)
    except FileNotFoundError:
        return b""  # logs of ended sessions go after a while


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


_read_there = ray.remote(num_cpus=0)(_read)
_remove_there = ray.remote(num_cpus=0)(_remove)
