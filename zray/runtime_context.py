"""The context of the current task or actor, at Ray's module path."""

from zray.core.runtime_context import RuntimeContext, get_runtime_context

__all__ = ["RuntimeContext", "get_runtime_context"]
