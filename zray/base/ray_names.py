"""``import ray`` is ``import zray``: an import hook, the version of Ray that it reports, and the same for subprocesses.

    import ray.util.queue             RayFinder gives zray.util.queue: the same module object under two names
    importlib.metadata.version("ray") the version that RayFinder was made with
    subprocesses                      PYTHONPATH leads to zray/compat/site, whose sitecustomize installs the finder;
                                      PATH leads to zray/compat/bin, which has a command ``ray``

No file of a Ray that is installed beside is read.  This module imports nothing of zray, and little else: each Python
that such a program starts loads it, by its file.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # without typing, which takes longer to load than this module
if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from types import CodeType, ModuleType
    from typing import Any

RAY_VERSION = "2.60.0"  # the Ray whose names and behaviour zray follows
VERSION_VARIABLE = "ZRAY_RAY_VERSION"  # what ``ray.__version__`` is instead
PYTHON_VARIABLE = "ZRAY_PYTHON"  # the interpreter of the command ``ray``

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SITE = os.path.join(_PACKAGE, "compat", "site")
BIN = os.path.join(_PACKAGE, "compat", "bin")


class RayFinder:
    """A finder of ``sys.meta_path`` and its loader: ``ray.x`` is ``zray.x``."""

    def __init__(self, version: str):
        self.version = version

    # ------------------------------------------------------------ finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top == "zray":
            if rest and not rest.startswith("base") and _is_import():
                _refuse(rest)  # `from ray import data` asks for zray.data
            return None
        if top != "ray":
            return None
        found = _spec_of_zray(name)
        if found is None:
            if _is_import():
                _refuse(rest)
            return None
        spec = ModuleSpec(name, self, origin=found.origin,  # type: ignore[arg-type]
                          is_package=found.submodule_search_locations is not None)
        if found.submodule_search_locations is not None:
            spec.submodule_search_locations = list(found.submodule_search_locations)
        return spec

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """For importlib.metadata, which asks this finder first; not for pip, which lists what is in a folder."""
        if "path" in getattr(context, "__dict__", ()):
            return
        wanted = getattr(context, "name", None)
        if (wanted is None or wanted.lower() == "ray") and _spec_of_zray("ray") is not None:
            yield _distribution(self.version)

    def invalidate_caches(self) -> None:
        """Nothing is cached."""

    # ------------------------------------------------------------ loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from importlib import import_module

        found = import_module(_zray_name(spec.name))
        spec.loader_state = found.__spec__  # the import system sets __spec__ to ``spec``; exec_module sets it back
        return found

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is None or spec.loader is not self:
            return
        module.__spec__ = spec.loader_state
        if spec.name == "ray":
            module.__version__ = self.version  # type: ignore[attr-defined]
        _alias(spec.name)

    def get_code(self, name: str) -> CodeType | None:
        """For ``python -m ray.x``."""
        found = _spec_of_zray(name)
        return found.loader.get_code(found.name) if found is not None else None  # type: ignore[union-attr]


def _zray_name(name: str) -> str:
    return f"z{name}"


def _spec_of_zray(name: str) -> ModuleSpec | None:
    from importlib.util import find_spec

    try:
        found = find_spec(_zray_name(name))
        if found is None and name == "ray" and not os.path.dirname(_PACKAGE).endswith("-packages"):
            sys.path.append(os.path.dirname(_PACKAGE))  # a checkout that no path of this Python leads to
            found = find_spec("zray")
    except ModuleNotFoundError:  # its parent is missing
        return None
    return found


def _alias(name: str) -> None:
    """Modules below that are loaded already have both names.

    Loading one of them anew would set it as an attribute of its package, in the place of a function of that name.
    """
    prefix = _zray_name(name) + "."
    for loaded, module in list(sys.modules.items()):
        if loaded.startswith(prefix) and module is not None:
            sys.modules.setdefault(loaded[1:], module)


def _is_import() -> bool:
    """Whether an import statement asks, and not a search such as importlib.util.find_spec."""
    try:
        return sys._getframe(3).f_code.co_name == "_find_and_load_unlocked"
    except ValueError:  # called by hand
        return False


def _refuse(name: str) -> None:
    """ModuleNotFoundError with a sentence where Ray has a module or name that zray lacks."""
    try:
        from zray.base.ray_missing import why_missing
    except ImportError:  # no zray here
        return
    if why := why_missing(name):
        raise ModuleNotFoundError(why, name=f"ray.{name}")


def _distribution(version: str) -> Any:
    from importlib.metadata import Distribution

    class RayDistribution(Distribution):
        """What importlib.metadata says of ray."""

        def read_text(self, filename: str) -> str | None:
            return {"METADATA": f"Metadata-Version: 2.1\nName: ray\nVersion: {version}\n",
                    "top_level.txt": "ray\n"}.get(filename)

        def locate_file(self, path: Any) -> Any:
            from pathlib import Path

            return Path(os.path.dirname(_PACKAGE), path)

    return RayDistribution()


# ---------------------------------------------------------------- in this process


def installed() -> RayFinder | None:
    """The finder of this process, None without one."""
    return next((finder for finder in sys.meta_path if isinstance(finder, RayFinder)), None)


def installed_version() -> str:
    """The version of Ray that this process reports; '' where ``ray`` is not zray."""
    finder = installed()
    return finder.version if finder is not None else ""


def install(version: str | None = None) -> str:
    """From now on ``import ray`` is zray in this process; returns the version.

    ValueError for a version that programs could not compare; RuntimeError when another ``ray`` is imported already.
    """
    version = version or os.environ.get(VERSION_VARIABLE) or RAY_VERSION
    if not all(part[:1].isdigit() for part in version.split(".")) or "." not in version or not version.isascii():
        raise ValueError(f"the version of ray must be like {RAY_VERSION}, not {version!r} "
                         f"(see the environment variable {VERSION_VARIABLE})")
    finder = installed()
    if finder is None:
        other = sys.modules.get("ray")
        if other is not None and other is not sys.modules.get("zray"):
            raise RuntimeError(f"another ray is imported already, from {getattr(other, '__file__', None)}: call "
                               "zray.compat.install() before the first import of ray, or use `zray run`")
        sys.meta_path.insert(0, RayFinder(version))
    else:
        finder.version = version
        if "ray" in sys.modules:
            sys.modules["ray"].__version__ = version  # type: ignore[attr-defined]
    return version


def uninstall() -> None:
    """Undo :func:`install`: a later ``import ray`` finds a Ray that is installed, or nothing."""
    finder = installed()
    if finder is not None:
        sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        if sys.modules[name] is sys.modules.get(_zray_name(name)):
            del sys.modules[name]
    zray = sys.modules.get("zray")
    if zray is not None:
        from zray.base.version import __version__

        zray.__version__ = __version__  # type: ignore[attr-defined]


# ---------------------------------------------------------------- in its subprocesses


def pass_on(environ: MutableMapping[str, str], version: str) -> None:
    """Set ``environ`` so that processes started with it see the same ``ray``, and the command ``ray``."""
    for name, folder in (("PYTHONPATH", SITE), ("PATH", BIN)):
        environ[name] = os.pathsep.join([folder, *_without(folder, environ.get(name, ""))])
    environ[VERSION_VARIABLE] = version
    environ[PYTHON_VARIABLE] = sys.executable


def withdraw(environ: MutableMapping[str, str]) -> None:
    """Undo :func:`pass_on`."""
    for name, folder in (("PYTHONPATH", SITE), ("PATH", BIN)):
        rest = os.pathsep.join(_without(folder, environ.get(name, "")))
        if rest:
            environ[name] = rest
        else:
            environ.pop(name, None)
    for name in (VERSION_VARIABLE, PYTHON_VARIABLE):
        environ.pop(name, None)


def _without(folder: str, paths: str) -> list[str]:
    return [path for path in paths.split(os.pathsep) if path and path != folder]
