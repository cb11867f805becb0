"""Interfaces that may still change, at Ray's names."""

from zray.experimental.locations import get_local_object_locations, get_object_locations

__all__ = ["get_local_object_locations", "get_object_locations"]


def __getattr__(name: str):
    if name in ("internal_kv", "tqdm_ray"):
        import importlib

        return importlib.import_module(f"zray.experimental.{name}")
    raise AttributeError(f"module 'zray.experimental' has no attribute {name!r}")
