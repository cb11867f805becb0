"""Interfaces that may still change, at Ray's names."""

from zray.experimental.locations import get_object_locations

__all__ = ["get_object_locations"]


def __getattr__(name: str):
    if name in ("internal_kv", "state", "tqdm_ray"):
        import importlib

        return importlib.import_module(f"zray.experimental.{name}")
    raise AttributeError(f"module 'zray.experimental' has no attribute {name!r}")
