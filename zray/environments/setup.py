"""What a node must install for a runtime environment, and the key under which it is cached.  Pure.

Environments that differ only in variables share what is installed, except variables that steer the installer
(``PIP_INDEX_URL``, ``UV_CACHE_DIR``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from zray.environments.spec import PACKAGE_SCHEME, SETUP_TIMEOUT_S, scheme_of, variables

INSTALLED = ("working_dir", "py_modules", "pip", "uv", "py_executable")
STEERS_INSTALLER = ("PIP_", "UV_")


def setup_of(env: Mapping[str, Any]) -> str:
    """The parts that are installed, as canonical JSON; '' when there is nothing to install."""
    if not env or len(env) == ("env_vars" in env):
        return ""
    parts: dict[str, Any] = {name: env[name] for name in INSTALLED if env.get(name)}
    if not parts:
        return ""
    if "pip" in parts or "uv" in parts:
        steering = {name: value for name, value in variables(env).items() if name.startswith(STEERS_INSTALLER)}
        if steering:
            parts["variables"] = steering
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))


def parts_of(setup: str) -> dict[str, Any]:
    """The inverse of :func:`setup_of`."""
    parts: dict[str, Any] = json.loads(setup)
    return parts


def written(variables: Mapping[str, str], setup: str, hook: str) -> dict[str, Any]:
    """The environment of a kind of workers, as far as the node knows it."""
    env: dict[str, Any] = {"env_vars": dict(variables)} if variables else {}
    if setup:
        env |= {name: value for name, value in parts_of(setup).items() if name != "variables"}
    if hook:
        env["worker_process_setup_hook"] = hook
    return env


def addresses(parts: Mapping[str, Any]) -> list[str]:
    """The packages that ``parts`` need, each once."""
    places = [parts.get("working_dir"), *parts.get("py_modules", ())]
    return list(dict.fromkeys(place for place in places if place))


def stored_packages(parts: Mapping[str, Any]) -> list[str]:
    """Those of the packages that are in the control store."""
    return [address for address in addresses(parts) if scheme_of(address) == PACKAGE_SCHEME]


def timeout_s(env: Mapping[str, Any]) -> float:
    """Seconds that the set-up may take; infinity for no limit."""
    seconds = (env.get("config") or {}).get("setup_timeout_seconds", SETUP_TIMEOUT_S)
    return float("inf") if seconds == -1 else float(seconds)


def mask(text: str) -> str:
    """``text`` without the passwords in its addresses."""
    return re.sub(r"://[^/@\s]+@", "://****@", text)


def title(setup: str) -> str:
    """A setup in a few words, for messages."""
    parts = parts_of(setup)
    words = []
    for name in ("pip", "uv"):
        if name in parts:
            packages = [mask(package) for package in parts[name]["packages"]]
            more = f" and {len(packages) - 3} more" if len(packages) > 3 else ""
            words.append(f"{name} packages {', '.join(packages[:3])}{more}")
    if "working_dir" in parts:
        words.append("working_dir")
    if "py_modules" in parts:
        words.append("py_modules")
    if "py_executable" in parts:
        words.append(f"py_executable {parts['py_executable']!r}")
    return ", ".join(words)
