"""The version, at Ray's module path."""

from zray.base import ray_names
from zray.base.version import __version__

version = ray_names.installed_version() or __version__
commit = ""

__all__ = ["commit", "version"]
