"""What may still change, at Ray's names."""

from zray.experimental.locations import get_object_locations

__all__ = ["get_object_locations"]
