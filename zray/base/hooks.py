"""Functions that users name by text, ``module:function``.  Pure."""

from __future__ import annotations

import re
from typing import Any

_HOOK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_hook(hook: Any) -> str:
    """The hook; ValueError when it has not the form ``module:function``, nor is empty."""
    if not isinstance(hook, str) or hook and not _HOOK.fullmatch(hook):
        raise ValueError(f"the tracing startup hook is a text 'module:function', not {hook!r}")
    return hook
