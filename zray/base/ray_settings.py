"""Ray's keys of ``_system_config``, and its variables ``RAY_<key>``, as settings of zray.  Pure.

What has a counterpart is translated, the rest is accepted and ignored, as programs set keys of several versions.  A key
that differs from a setting of zray by a slip is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from zray.base.config import DEFAULTS, SLIP, Config, nearest, refuse_unknown

# Keys of Ray that resemble settings of zray and mean something else.
_NOT_SLIPS = frozenset(("task_oom_retries",))
_HEALTH = ("health_check_period_ms", "health_check_timeout_ms")
_FAILURES = "health_check_failure_threshold"
_FAILURES_DEFAULT = 5  # Ray's
_NODE_TIMEOUT_S_MIN = 0.5  # a busy machine is late by this much


def _spill_dir(value: Any) -> dict[str, Any]:
    """The directory of ``{"type": "filesystem", "params": {"directory_path": path or paths}}``, as JSON."""
    try:
        given = json.loads(value) if isinstance(value, str) else value
        kind, path = given["type"], (given.get("params") or {}).get("directory_path")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError("object_spilling_config takes JSON such as {\"type\": \"filesystem\", \"params\": "
                         f"{{\"directory_path\": \"/tmp/spill\"}}}}, not {value!r}") from None
    if kind == "smart_open":
        path = (given.get("params") or {}).get("uri")
    elif kind != "filesystem":
        raise ValueError(f"object_spilling_config takes the type filesystem or smart_open, not {kind!r}")
    if isinstance(path, (list, tuple)):
        path = path[0] if path else ""  # zray spills to one place
    return {"spill_dir": path} if path else {}


def _lineage(value: Any) -> dict[str, Any]:
    return {} if _is_true(value) else {"lineage_bytes_max": 0}


def _number(name: str, scale: float = 1) -> Callable[[Any], dict[str, Any]]:
    whole = Config.__dataclass_fields__[name].type == "int"

    def translate(value: Any) -> dict[str, Any]:
        amount = float(value) * scale
        return {name: int(amount) if whole else amount}

    return translate


def _is_true(value: Any) -> bool:
    return str(value).lower() not in ("0", "false", "")


def _sites(value: Any) -> dict[str, Any]:
    return {"record_ref_creation_sites": _is_true(value)}


_COUNTERPARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "idle_worker_killing_time_threshold_ms": _number("worker_idle_s", 0.001),
    "lineage_pinning_enabled": _lineage,
    "max_direct_call_object_size": _number("inline_bytes_max"),
    "max_lineage_bytes": _number("lineage_bytes_max"),
    "memory_monitor_refresh_ms": _number("memory_monitor_s", 0.001),
    "memory_usage_threshold": _number("memory_share_max"),
    "object_spilling_config": _spill_dir,
    "record_ref_creation_sites": _sites,
    "record_task_actor_creation_sites": _sites,
    "object_spilling_directory": lambda value: {"spill_dir": value} if value else {},
    "task_events_max_num_task_in_gcs": _number("events_max"),
}


def translated(given: Mapping[Any, Any] | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings of zray for a ``_system_config`` of keys of zray and Ray, over Ray's variables.

    ValueError for a value that a key cannot have, and for a slip in the name of a setting.
    """
    keys = {**_from_environment(environ), **(given or {})}
    out: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in keys.items():
        if name in _COUNTERPARTS:
            try:
                out.update(_COUNTERPARTS[name](value))
            except TypeError:
                raise ValueError(f"{name} cannot be {value!r}") from None
            except ValueError as error:
                raise ValueError(f"{name} cannot be {value!r}: {error}") from None
        elif name in Config.__dataclass_fields__:
            own[name] = value
        elif not isinstance(name, str) or name not in _NOT_SLIPS and nearest(name, SLIP):
            refuse_unknown([name])
    return {**out, **_node_timeout(keys), **own}


def _node_timeout(keys: Mapping[Any, Any]) -> dict[str, float]:
    """The time until a silent node is dead: so many failures, each a period and a time-out."""
    if not any(name in keys for name in (*_HEALTH, _FAILURES)):
        return {}
    try:
        each_ms = sum(float(keys.get(name, 0)) for name in _HEALTH)
        failures = float(keys.get(_FAILURES, _FAILURES_DEFAULT))
    except (TypeError, ValueError):
        raise ValueError(f"{', '.join((*_HEALTH, _FAILURES))} take numbers") from None
    if not each_ms:
        each_ms = 1000 * DEFAULTS.node_timeout_s / _FAILURES_DEFAULT
    return {"node_timeout_s": max(_NODE_TIMEOUT_S_MIN, each_ms * failures / 1000)}


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    names = (*_COUNTERPARTS, *_HEALTH, _FAILURES)
    return {name: environ[f"RAY_{name}"] for name in names if f"RAY_{name}" in environ}
