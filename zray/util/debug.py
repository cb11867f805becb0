"""Log a message once, not at each call."""

from __future__ import annotations

import time

__all__ = ["disable_log_once_globally", "enable_periodic_logging", "log_once", "reset_log_once"]

PERIOD_S = 60.0

_seen: set[object] = set()
_state = {"disabled": False, "period_s": 0.0, "since": 0.0}


def log_once(key: object) -> bool:
    """True at the first call with ``key`` in this process: ``if log_once("slow"): logger.warning(...)``."""
    if _state["disabled"]:
        return False
    now = time.monotonic()
    if _state["period_s"] and now - _state["since"] > _state["period_s"]:
        _seen.clear()
        _state["since"] = now
    if key in _seen:
        return False
    _seen.add(key)
    return True


def reset_log_once(key: object = None) -> None:
    """Log the message ``key`` again, or all of them for None."""
    if key is None:
        _seen.clear()
    else:
        _seen.discard(key)


def disable_log_once_globally() -> None:
    """Log nothing at all from now on."""
    _state["disabled"] = True


def enable_periodic_logging() -> None:
    """Log each message at most once a minute from now on."""
    _state.update(disabled=False, period_s=PERIOD_S, since=time.monotonic())
