"""RemoteFunction at Ray's module path."""

from zray.handles import RemoteFunction

__all__ = ["RemoteFunction"]
