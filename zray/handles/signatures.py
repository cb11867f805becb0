"""Parameters of remote functions and methods, in a form that pickles, to catch bad calls in the caller."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

# A parameter is (name, kind, has a default); annotations and defaults stay behind: they may not pickle.
Param = tuple[str, int, bool]

_ANY: tuple[Param, ...] = (("args", 2, False), ("kwargs", 4, False))


class OfInstance:
    """An attribute that instances compute, for example their own ``__doc__``; of the class it is ``on_class``."""

    def __init__(self, compute: Callable[[Any], Any], on_class: Any = None):
        self.compute = compute
        self.on_class = on_class

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is not None:
            return self.compute(instance)
        if self.on_class is None:
            raise AttributeError("an attribute of instances alone")
        return self.on_class


def signature_of(function: Any, skip_self: bool = False) -> inspect.Signature:
    """The signature of a user's function, class or unbound method, for ``help`` and editors.

    An AttributeError, so that ``inspect`` looks elsewhere, where Python cannot tell.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        raise AttributeError("__signature__") from None
    parameters = list(signature.parameters.values())
    if skip_self and parameters and parameters[0].kind in (0, 1):
        return signature.replace(parameters=parameters[1:])
    return signature


class Parameters:
    """The arguments that a callable accepts.  ``check`` costs a comparison for calls without keywords."""

    __slots__ = ("_signature", "high", "low", "params")

    def __init__(self, params: tuple[Param, ...]):
        self.params = params
        self._signature: inspect.Signature | None = None
        kinds = inspect._ParameterKind
        positional = [p for p in params if p[1] in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        self.low = sum(not p[2] for p in positional)
        self.high = 1 << 60 if any(p[1] == kinds.VAR_POSITIONAL for p in params) else len(positional)
        if any(p[1] == kinds.KEYWORD_ONLY and not p[2] for p in params):
            self.low = 1 << 61  # a required keyword: no call without keywords is right

    @classmethod
    def of(cls, function: Callable[..., Any], skip_self: bool = False) -> Parameters:
        """The signature of a function; with ``skip_self`` of an unbound method; any arguments where
        Python cannot tell."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):
            return cls(_ANY)
        if skip_self and parameters and parameters[0].kind in (0, 1):
            parameters = parameters[1:]
        return cls(tuple((p.name, int(p.kind), p.default is not p.empty) for p in parameters))

    def check(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """TypeError in Python's words when the call would fail."""
        if not kwargs and self.low <= len(args) <= self.high:
            return
        self.signature().bind(*args, **kwargs)

    def signature(self) -> inspect.Signature:
        """Names and kinds; each default shows as ``...``."""
        if self._signature is None:
            kinds, empty = inspect._ParameterKind, inspect.Parameter.empty
            self._signature = inspect.Signature([
                inspect.Parameter(name, kinds(kind), default=... if default else empty)
                for name, kind, default in self.params])
        return self._signature
