"""Keys and values of bytes in the control store, for all processes of a cluster; they outlive the job.

A write that was acknowledged is on every replica.  The store holds metadata: one value takes at most 64 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.handles.connection import connected, current

__all__ = [
    "_internal_kv_del", "_internal_kv_exists", "_internal_kv_get", "_internal_kv_initialized", "_internal_kv_list",
    "_internal_kv_put",
]

Name = str | bytes


def _internal_kv_initialized() -> bool:
    """Whether this process is connected."""
    return current() is not None


def _internal_kv_get(key: Name, *, namespace: Name | None = None) -> bytes | None:
    """The value, None where there is none."""
    name, space = _bytes(key), _text(namespace)
    return _ask("read", lambda kv, then: kv.kv_get(name, space, then))


def _internal_kv_exists(key: Name, *, namespace: Name | None = None) -> bool:
    """Whether there is a value under this key."""
    name, space = _bytes(key), _text(namespace)
    return _ask("read", lambda kv, then: kv.kv_exists(name, space, then))


def _internal_kv_put(key: Name, value: Name, overwrite: bool = True, *, namespace: Name | None = None) -> bool:
    """Write; returns whether the key existed before (it then keeps its value without ``overwrite``)."""
    name, data, space = _bytes(key), _bytes(value), _text(namespace)
    return _ask("written", lambda kv, then: kv.kv_put(name, data, space, overwrite, then))


def swap(key: Name, expected: Name, new: Name, *, namespace: Name | None = None) -> bool:
    """Replace a value by another; False, and nothing changes, when it is not ``expected`` (any more).  Not in Ray."""
    name, old, data, space = _bytes(key), _bytes(expected), _bytes(new), _text(namespace)
    return _ask("written", lambda kv, then: kv.kv_swap(name, old, data, space, then))


def _internal_kv_del(key: Name, *, del_by_prefix: bool = False, namespace: Name | None = None) -> int:
    """Delete a key, or all that begin with it; returns how many there were."""
    keys = _internal_kv_list(key, namespace=namespace) if del_by_prefix else [_bytes(key)]
    return sum(_delete(name, _text(namespace)) for name in keys)


def _delete(name: bytes, space: str) -> bool:
    return _ask("deleted", lambda kv, then: kv.kv_del(name, space, then))


def _internal_kv_list(prefix: Name, *, namespace: Name | None = None) -> list[bytes]:
    """The keys that begin with ``prefix``, in order."""
    name, space = _bytes(prefix), _text(namespace)
    return list(_ask("listed", lambda kv, then: kv.kv_list(name, space, then)))


def _bytes(name: Name) -> bytes:
    if not isinstance(name, (str, bytes)):
        raise TypeError(f"keys and values are bytes or str, not {type(name).__name__}")
    return name.encode() if isinstance(name, str) else name


def _text(namespace: Name | None) -> str:
    return namespace.decode() if isinstance(namespace, bytes) else namespace or ""


def _ask(done: str, call: Callable[[Any, Any], Any]) -> Any:
    runtime = connected()
    return runtime.ask_control_store(f"keys could not be {done}", lambda then: call(runtime.gcs, then))
