"""Interfaces that may still change, at Ray's names."""

from zray.experimental.locations import get_local_object_locations, get_object_locations

__all__ = ["get_local_object_locations", "get_object_locations"]


def __getattr__(name: str):
    if name in ("internal_kv", "queue", "state", "tqdm_ray"):
        import importlib

        return importlib.import_module(f"zray.experimental.{name}")
    from zray.base.ray_missing import no_attribute

    raise no_attribute(__name__, name)
