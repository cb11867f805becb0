"""The configuration of a job, for ``init(job_config=...)``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from zray.handles.options import TASK_OPTIONS

LIFETIMES = ("detached", "non_detached")


class JobConfig:
    """What holds for all workers of a job.

    ``code_search_path``: directories that workers import from, after the driver's own.  ``ray_namespace``: of named
    actors.  ``default_actor_lifetime``: "detached" or "non_detached", of actors that do not say theirs.
    ``runtime_env``: as in ``init``.  ``metadata``: strings by name.  The rest is Ray's and has no counterpart.
    """

    def __init__(self, jvm_options: Sequence[str] | None = None, code_search_path: Sequence[str] | None = None,
                 runtime_env: dict[str, Any] | None = None, _client_job: bool = False,
                 metadata: dict[str, str] | None = None, ray_namespace: str | None = None,
                 default_actor_lifetime: str = "non_detached",
                 _disable_job_level_lineage_reconstruction: bool = False,
                 _py_driver_sys_path: Sequence[str] | None = None):
        if code_search_path is not None and not isinstance(code_search_path, (list, tuple)):
            raise TypeError(f"The type of code search path is incorrect: {type(code_search_path)}; it is a list of "
                            "directories")
        for directory in code_search_path or ():
            if not isinstance(directory, (str, os.PathLike)):
                raise TypeError(f"the code search path is a list of directories, and {directory!r} is none")
        self.jvm_options = list(jvm_options or ())
        self.code_search_path = [os.fspath(directory) for directory in code_search_path or ()]
        self.metadata = dict(metadata or {})
        self._py_driver_sys_path = list(_py_driver_sys_path or ())
        self.py_logging_config: Any = None
        self.set_ray_namespace(ray_namespace)
        self.set_runtime_env(runtime_env)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        self.metadata[key] = value

    def set_ray_namespace(self, ray_namespace: str | None) -> None:
        TASK_OPTIONS["name"].validate("ray_namespace", ray_namespace)
        self.ray_namespace = ray_namespace

    def set_runtime_env(self, runtime_env: dict[str, Any] | None, validate: bool = False) -> None:
        """``validate``: check it now, and not at ``init``."""
        if validate:
            TASK_OPTIONS["runtime_env"].validate("runtime_env", runtime_env)
        self.runtime_env = runtime_env if runtime_env is not None else {}

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        if default_actor_lifetime not in LIFETIMES:
            raise ValueError(f"Default actor lifetime must be one of `detached`, `non_detached`, not "
                             f"{default_actor_lifetime!r}")
        self.default_actor_lifetime = default_actor_lifetime

    def set_py_logging_config(self, logging_config: Any = None) -> None:
        """A ``zray.LoggingConfig``."""
        self.py_logging_config = logging_config

    def ensure_logging_config(self, logging_config: Any = None) -> None:
        """The same, unless one is set."""
        if self.py_logging_config is None:
            self.py_logging_config = logging_config

    @classmethod
    def from_json(cls, job_config_json: dict[str, Any]) -> JobConfig:
        """From a map of the constructor's keywords."""
        given = job_config_json.get
        out = cls(given("jvm_options"), given("code_search_path"), given("runtime_env"), metadata=given("metadata"),
                  ray_namespace=given("ray_namespace"))
        if job_config_json.get("default_actor_lifetime"):
            out.set_default_actor_lifetime(job_config_json["default_actor_lifetime"])
        return out

    def __repr__(self) -> str:
        return f"JobConfig({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if value)})"


def merged(options: dict[str, Any]) -> dict[str, Any]:
    """The keywords of ``init`` with those of its ``job_config`` under them."""
    job = options.get("job_config")
    if job is None:
        return options
    if not isinstance(job, JobConfig):
        raise TypeError(f"job_config takes a JobConfig of zray.job_config, not {job!r}")
    out = dict(options)
    for name, value in (("namespace", job.ray_namespace), ("runtime_env", job.runtime_env),
                        ("logging_config", job.py_logging_config)):
        if out.get(name) is None and value:
            out[name] = value
    return out
