"""inspect_serializability at Ray's module path."""

from zray.util.serializability import inspect_serializability

__all__ = ["inspect_serializability"]
