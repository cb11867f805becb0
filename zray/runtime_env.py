"""RuntimeEnv, a dict that is checked when it is made."""

from __future__ import annotations

from typing import Any

from zray.handles.options import TASK_OPTIONS

__all__ = ["RuntimeEnv"]


class RuntimeEnv(dict[str, Any]):
    """A runtime environment, ``RuntimeEnv(env_vars={"A": "1"})``; the same as the dict."""

    def __init__(self, **fields: Any):
        super().__init__({name: value for name, value in fields.items() if value is not None})
        TASK_OPTIONS["runtime_env"].validate("runtime_env", self)

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self):
        return _rebuild, (dict(self),)


def _rebuild(fields: dict[str, Any]) -> RuntimeEnv:
    return RuntimeEnv(**fields)
