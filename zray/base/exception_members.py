"""Attributes of exceptions that are not in their ``__dict__``: they live in C structs and in slots."""

from __future__ import annotations

import contextlib
import types
from typing import Any


def exception_members(error: BaseException) -> dict[str, Any]:
    """Attributes that live in C structs and slots (``OSError.errno``,
    ``UnicodeDecodeError.start``), not in ``__dict__``."""
    found: dict[str, Any] = {}
    for cls in type(error).__mro__:
        if cls in (BaseException, Exception, object):
            continue
        for name, member in vars(cls).items():
            if cls is AttributeError and name == "obj":
                continue  # objects that lacked the attribute may be large, or refuse to be pickled
            if not name.startswith("__") and isinstance(member, _MEMBER_TYPES):
                value = getattr(error, name, None)
                if value is not None:
                    found.setdefault(name, value)
    return found


_MEMBER_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)


def copy_members(source: BaseException, target: BaseException) -> None:
    for name, value in exception_members(source).items():
        set_member(target, name, value)


def set_member(error: BaseException, name: str, value: Any) -> None:
    """Bypass a ``__setattr__`` of the user's; attributes that cannot be set come from ``__new__``."""
    with contextlib.suppress(AttributeError, TypeError):
        object.__setattr__(error, name, value)
