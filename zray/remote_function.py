"""RemoteFunction at Ray's module path."""

from zray.handles.remote import RemoteFunction

__all__ = ["RemoteFunction"]
