"""The fields of a runtime environment: checked as Ray checks them, brought to one form, merged.

``check`` refuses a wrong value where the user writes it.  ``normal`` gives the form that all other code reads: maps,
lists and strings, local paths absolute.  ``zray.core.environments`` replaces local paths by addresses of packages;
the result travels as ``env`` with leases and actors:

    env_vars        {name: value}                    working_dir     address of a package
    py_modules      [address of a package, ...]      py_executable   a command line
    pip, uv         {"packages": [...], ...}         worker_process_setup_hook   "module.attribute" or a stored function
    config          {"setup_timeout_seconds": ...}
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from zray.base import env_vars

ENV_FIELDS = ("env_vars", "working_dir", "py_modules", "excludes", "pip", "uv", "py_executable",
          "worker_process_setup_hook", "config")
# Schemes of addresses that a node downloads.  Those without a client in the standard library need fsspec.
PACKAGE_SCHEME = "zray"  # a package in the control store
PLAIN_SCHEMES = ("file", "http", "https")
FSSPEC_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "azure", "hdfs", "ftp", "sftp")
HOOK_SCHEME = "zray-function:"  # the setup hook is a function in the control store
SETUP_TIMEOUT_S = 600  # Ray's default: a slow index, and packages that are compiled
INSTALLERS = {
    "pip": {"packages": list, "pip_check": bool, "pip_version": str, "pip_install_options": list},
    "uv": {"packages": list, "uv_check": bool, "uv_version": str, "uv_pip_install_options": list},
}


# ---------------------------------------------------------------- checks


def check(raw: Mapping[str, Any]) -> None:
    """TypeError or ValueError for an invalid runtime environment."""
    unknown = sorted(str(name) for name in raw if name not in ENV_FIELDS)
    if unknown:
        raise ValueError(f"runtime_env keys {unknown} are not supported by this version of zray; it supports "
                         f"{sorted(ENV_FIELDS)}.")
    given = {name: value for name, value in raw.items() if value is not None}
    if "env_vars" in given:
        env_vars.check(given["env_vars"])
    if "working_dir" in given:
        _check_place(given["working_dir"], "working_dir", (".zip",))
    if "py_modules" in given:
        _check_modules(given["py_modules"])
    if "excludes" in given:
        _check_texts(given["excludes"], "runtime_env['excludes']")
    if "pip" in given and "uv" in given:
        raise ValueError("The 'pip' field and 'uv' field of runtime_env cannot be specified at the same time: leave "
                         "one of them out.")
    for name in INSTALLERS:
        if name in given:
            _check_installer(name, given[name])
    if "py_executable" in given:
        _check_executable(given["py_executable"])
    if "worker_process_setup_hook" in given:
        _check_hook(given["worker_process_setup_hook"])
    if "config" in given:
        check_config(given["config"])


def _check_texts(value: Any, what: str) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{what} must be of type List[str], got {type(value)}: {value!r}")
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"{what} must be of type List[str], got {type(item)} in it: {item!r}")


def _check_place(place: Any, field: str, endings: tuple[str, ...]) -> None:
    """A local path, or an address."""
    name = "`py_module`" if field == "py_modules" else f"`{field}`"
    if not isinstance(place, (str, os.PathLike)):
        raise TypeError(f"{name} must be a string, got {type(place)}: {place!r}")
    text = os.fspath(place)
    scheme = scheme_of(text)
    if not scheme:
        _check_path(text, field, endings)
    elif scheme not in (PACKAGE_SCHEME, *PLAIN_SCHEMES, *FSSPEC_SCHEMES):
        raise ValueError(f"{text} is not a valid URI: {name} takes a local path, or an address that begins with one of "
                         f"{[each + '://' for each in (*PLAIN_SCHEMES, *FSSPEC_SCHEMES)]}.")
    elif scheme != PACKAGE_SCHEME and not text.partition("#")[0].partition("?")[0].endswith(endings):
        raise ValueError(f"Only {' or '.join(endings)} files supported for remote URIs: {text} has another ending.")


def _check_path(text: str, field: str, endings: tuple[str, ...]) -> None:
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(path):
        raise ValueError(f"Path {text} is not a valid path: runtime_env[{field!r}] names nothing that exists "
                         f"(looked in {path}).")
    allowed = (*endings, ".py", ".zip") if field == "py_modules" else endings
    if os.path.isfile(path) and not path.endswith(allowed):
        raise ValueError(f"Path {text} is not a valid path: runtime_env[{field!r}] takes folders, and files that end "
                         f"in {' or '.join(sorted(set(allowed)))}.")


def _check_modules(modules: Any) -> None:
    if isinstance(modules, str) or not isinstance(modules, Sequence):
        raise TypeError(f"`py_modules` must be a list of strings, got {type(modules)}: {modules!r}")
    for module in modules:
        if isinstance(module, ModuleType):
            _path_of_module(module)
        else:
            _check_place(module, "py_modules", (".zip", ".whl"))


def _check_installer(name: str, value: Any) -> None:
    what = f"runtime_env['{name}']"
    if isinstance(value, (str, os.PathLike)):
        _requirements(value, what)
        return
    if not isinstance(value, Mapping):
        if not isinstance(value, Sequence):
            raise TypeError(f"{what} must be of type str or List[str], got {type(value)}: {value!r}")
        _check_texts(value, what)
        return
    fields = INSTALLERS[name]
    if not set(value) <= set(fields):
        raise ValueError(f"{what} can only have these fields: {', '.join(fields)}, but got: {sorted(value)}")
    if "packages" not in value:
        raise ValueError(f"{what} must include field 'packages', but got {dict(value)}")
    for field, kind in fields.items():
        item = value.get(field)
        if item is None:
            continue
        if field == "packages" and isinstance(item, (str, os.PathLike)):
            _requirements(item, f"{what}['packages']")
        elif kind is list:
            _check_texts(item, f"{what}['{field}']")
        elif not isinstance(item, kind):
            raise TypeError(f"{what}['{field}'] must be of type {kind.__name__}, got {type(item)}: {item!r}")


def _requirements(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a requirements file, without comments and blank lines."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path} is not a valid file: {what} takes a list of packages, or the path of a requirements "
                         f"file ({error.strerror}).") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _check_executable(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"runtime_env['py_executable'] must be of type str, got {type(value)}: {value!r}")
    if not value.strip():
        raise ValueError("runtime_env['py_executable'] is empty; it takes a command such as 'python3.12' or 'uv run'")
    try:
        shlex.split(value)
    except ValueError as error:
        raise ValueError(f"runtime_env['py_executable'] is no command line of a shell ({error}): {value!r}") from None


def _check_hook(hook: Any) -> None:
    if isinstance(hook, str):
        parts = hook.split(".")
        if not hook.startswith(HOOK_SCHEME) and (len(parts) < 2 or not all(part.isidentifier() for part in parts)):
            raise ValueError("runtime_env['worker_process_setup_hook'] takes a function or 'module.attribute', not "
                             f"{hook!r}")
    elif not callable(hook):
        raise TypeError("runtime_env['worker_process_setup_hook'] must be a function or a str, got "
                        f"{type(hook)}: {hook!r}")


def check_config(config: Any) -> None:
    """The fields of RuntimeEnvConfig; TypeError or ValueError."""
    if not isinstance(config, Mapping):
        raise TypeError(f"runtime_env['config'] must be a dict or RuntimeEnvConfig, got {type(config)}: {config!r}")
    seconds = config.get("setup_timeout_seconds", SETUP_TIMEOUT_S)
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise TypeError(f"setup_timeout_seconds must be of type int, got: {type(seconds)}")
    if seconds <= 0 and seconds != -1:
        raise ValueError(f"setup_timeout_seconds must be greater than zero or equals to -1, got: {seconds}")
    eager = config.get("eager_install", True)
    if not isinstance(eager, bool):
        raise TypeError(f"eager_install must be a boolean. got {type(eager)}")
    files = config.get("log_files")
    if files is not None and not (isinstance(files, list) and all(isinstance(item, str) for item in files)):
        raise TypeError(f"log_files must be a list of strings or None, got {files!r}")


# ---------------------------------------------------------------- one form


def normal(raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """A checked environment in the form that travels, but for local paths and a hook that is a function.

    Local places are ``{"path": absolute, "excludes": [...]}``.
    """
    if not raw:
        return {}
    given = {name: value for name, value in raw.items() if value is not None}
    excludes = list(given.get("excludes") or ())
    out: dict[str, Any] = {}
    if given.get("env_vars"):
        out["env_vars"] = dict(given["env_vars"])
    if "working_dir" in given:
        out["working_dir"] = _place(given["working_dir"], excludes)
    if given.get("py_modules"):
        out["py_modules"] = [_place(module, excludes) for module in given["py_modules"]]
    for name in INSTALLERS:
        if name in given:
            out[name] = _installer(name, given[name])
    for name in ("py_executable", "worker_process_setup_hook"):
        if name in given:
            out[name] = given[name]
    if given.get("config"):
        out["config"] = {**given["config"]}
    return out


def _place(place: Any, excludes: list[str]) -> Any:
    if isinstance(place, ModuleType):
        place = _path_of_module(place)
    text = os.fspath(place)
    if scheme_of(text):
        return text
    return {"path": os.path.abspath(os.path.expanduser(text)), "excludes": excludes}


def _path_of_module(module: ModuleType) -> str:
    """The folder of a package, or the file of a module.  ValueError when it has no single one."""
    folders = list(getattr(module, "__path__", ()))
    if len(folders) > 1 or not folders and not getattr(module, "__file__", None):
        raise ValueError(f"py_modules cannot take {module!r}: it is not in one folder or file; name its path")
    return folders[0] if folders else str(module.__file__)


def _installer(name: str, value: Any) -> dict[str, Any]:
    fields = dict(value) if isinstance(value, Mapping) else {"packages": value}
    packages = fields["packages"]
    if isinstance(packages, (str, os.PathLike)):
        packages = _requirements(packages, f"runtime_env['{name}']")
    fields["packages"] = list(dict.fromkeys(packages))
    return {field: list(item) if INSTALLERS[name][field] is list else item
            for field, item in fields.items() if item is not None}


# ---------------------------------------------------------------- reading and merging


def scheme_of(text: str) -> str:
    """The scheme of an address; '' for a local path."""
    scheme, found, _ = text.partition("://")
    return scheme if found and scheme.replace("-", "").replace("+", "").isalnum() else ""


def variables(env: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of a runtime environment."""
    return env.get("env_vars") or {}


def merged(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a child: its own fields replace inherited ones; variables merge name by name."""
    if not inherited or not own:
        return dict(own or inherited)
    out = {**inherited, **own}
    if "pip" in own or "uv" in own:
        out = {name: value for name, value in out.items() if name not in INSTALLERS or name in own}
    together = env_vars.merged(variables(inherited), variables(own))
    if together:
        out["env_vars"] = together
    return out


def has_local_parts(env: Mapping[str, Any]) -> bool:
    """Whether parts of it are still in files or in a function of this process."""
    places = [env.get("working_dir"), *env.get("py_modules", ())]
    return any(isinstance(place, dict) for place in places) or callable(env.get("worker_process_setup_hook"))


def written(env: Mapping[str, Any]) -> dict[str, Any]:
    """A normal environment as a user would write it; the inverse of :func:`normal`."""
    out = dict(env)
    if isinstance(out.get("working_dir"), dict):
        out["excludes"] = out["working_dir"]["excludes"]
        out["working_dir"] = out["working_dir"]["path"]
    if "py_modules" in out:
        out["py_modules"] = [place["path"] if isinstance(place, dict) else place for place in out["py_modules"]]
    return out
