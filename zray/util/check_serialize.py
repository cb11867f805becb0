"""inspect_serializability at Ray's module path."""

from zray.util.serializability import FailureTuple, inspect_serializability

__all__ = ["FailureTuple", "inspect_serializability"]
