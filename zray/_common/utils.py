"""Small functions that programs import, at Ray's module path."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import string
from collections.abc import Coroutine
from typing import Any

from zray.base.memory_linux import memory_bytes

__all__ = [
    "binary_to_hex", "env_bool", "env_float", "env_integer", "get_or_create_event_loop",
    "get_random_alphanumeric_string", "get_system_memory", "hex_to_binary", "import_attr", "load_class",
    "run_background_task",
]

_background: set[asyncio.Task[Any]] = set()  # the loop holds tasks only weakly


def env_integer(key: str, default: int) -> int:
    value = os.environ.get(key)
    return default if value is None else int(value)


def env_float(key: str, default: float) -> float:
    value = os.environ.get(key)
    return default if value is None else float(value)


def env_bool(key: str, default: bool) -> bool:
    value = os.environ.get(key)
    return default if value is None else value.lower() in ("1", "true")


def binary_to_hex(identifier: bytes) -> str:
    return identifier.hex()


def hex_to_binary(hex_identifier: str) -> bytes:
    return bytes.fromhex(hex_identifier)


def get_system_memory(memory_limit_filename: str = "", memory_limit_filename_v2: str = "") -> int:
    """Bytes of memory of this machine, or of the control group where that has less."""
    return memory_bytes()


def import_attr(full_path: str, *, reload_module: bool = False) -> Any:
    """The thing at "package.module.name" or "package.module:name"."""
    module_name, _, name = full_path.rpartition(":") if ":" in full_path else full_path.rpartition(".")
    if not module_name or not name:
        raise ValueError(f"an import path is like package.module.name, not {full_path!r}")
    module = importlib.import_module(module_name)
    if reload_module:
        importlib.reload(module)
    return getattr(module, name)


def load_class(path: str) -> Any:
    """The same for a path with dots."""
    return import_attr(path)


def get_random_alphanumeric_string(length: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def get_or_create_event_loop() -> asyncio.AbstractEventLoop:
    """The running loop, else the current one of this thread, else a new one that becomes the current one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop


def run_background_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task of the running loop that is kept until it is done."""
    task = get_or_create_event_loop().create_task(coroutine)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
