"""RuntimeEnv, a dict that is checked when it is made, and RuntimeEnvConfig, its entry ``config``."""

from __future__ import annotations

import json
from typing import Any

from zray.environments import spec
from zray.handles.options import TASK_OPTIONS

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up.

    ``setup_timeout_seconds``: what a node may take, an int; -1 for no limit.  ``eager_install`` and ``log_files`` are
    checked and kept.  TypeError or ValueError for other values.
    """

    def __init__(self, setup_timeout_seconds: int = spec.SETUP_TIMEOUT_S, eager_install: bool = True,
                 log_files: list[str] | None = None):
        super().__init__(setup_timeout_seconds=setup_timeout_seconds, eager_install=eager_install,
                         log_files=list(log_files) if isinstance(log_files, list) else log_files or [])
        spec.check_config(self)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dict."""
        return dict(self)

    def __reduce__(self):
        return RuntimeEnvConfig, tuple(self.values())


class RuntimeEnv(dict[str, Any]):
    """A runtime environment, ``RuntimeEnv(env_vars={"A": "1"})``; the same as the dict."""

    def __init__(self, *, py_modules: list[Any] | None = None, py_executable: str | None = None,
                 working_dir: Any = None, pip: Any = None, uv: Any = None, env_vars: dict[str, str] | None = None,
                 worker_process_setup_hook: Any = None, config: Any = None, **fields: Any):
        given = {"py_modules": py_modules, "py_executable": py_executable, "working_dir": working_dir, "pip": pip,
                 "uv": uv, "env_vars": env_vars, "worker_process_setup_hook": worker_process_setup_hook,
                 "config": config, **fields}
        super().__init__({name: value for name, value in given.items() if value is not None})
        TASK_OPTIONS["runtime_env"].validate("runtime_env", self)

    def __setitem__(self, name: str, value: Any) -> None:
        """TypeError or ValueError for a value that is not valid there; the environment stays as it was."""
        TASK_OPTIONS["runtime_env"].validate("runtime_env", {**self, name: value})
        super().__setitem__(name, value)

    def set(self, name: str, value: Any) -> None:
        """The same as ``env[name] = value``."""
        self[name] = value

    def working_dir(self) -> Any:
        """The folder, archive or URL as it was given; "" without one."""
        return self.get("working_dir", "")

    def has_working_dir(self) -> bool:
        """Whether it has a working_dir."""
        return "working_dir" in self

    def py_modules(self) -> list[Any]:
        """Its py_modules; [] for none."""
        return list(self.get("py_modules", ()))

    def py_executable(self) -> str | None:
        """Its py_executable; None for that of the node."""
        return self.get("py_executable")

    def env_vars(self) -> dict[str, str]:
        """Its env_vars; {} for none."""
        return self.get("env_vars", {})

    def has_pip(self) -> bool:
        """Whether it installs packages by pip."""
        return bool(self.get("pip"))

    def pip_config(self) -> dict[str, Any]:
        """What pip installs, ``{"packages": [...], ...}``; {} without."""
        return spec.normal({"pip": self["pip"]})["pip"] if self.has_pip() else {}

    def has_uv(self) -> bool:
        """Whether it installs packages by uv."""
        return bool(self.get("uv"))

    def uv_config(self) -> dict[str, Any]:
        """What uv installs, ``{"packages": [...], ...}``; {} without."""
        return spec.normal({"uv": self["uv"]})["uv"] if self.has_uv() else {}

    def to_dict(self) -> dict[str, Any]:
        """The environment as a dict."""
        return dict(self)

    def serialize(self) -> str:
        """As JSON.  TypeError for a module or a function in it."""
        return json.dumps(self, sort_keys=True, default=_text)

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        """The inverse of :meth:`serialize`."""
        return cls(**json.loads(serialized_runtime_env))

    def __reduce__(self):
        return _rebuild, (dict(self),)


def _text(value: Any) -> str:
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON: name its path, or 'module.attribute'")


def _rebuild(fields: dict[str, Any]) -> RuntimeEnv:
    """Not checked again: a local path may not exist on this machine."""
    env = RuntimeEnv.__new__(RuntimeEnv)
    env.update(fields)
    return env
