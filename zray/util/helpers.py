"""as_completed and map_unordered at Ray's module path."""

from zray.util.streams import as_completed, map_unordered

__all__ = ["as_completed", "map_unordered"]
