"""Settings of compiled graphs: of the process (DAGContext), and of one graph."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, Self

from zray.base.named_tuples import NamedTuple
from zray.base.plain_numbers import plain
from zray.channels.channel import SLOTS_MAX

_current: DAGContext | None = None


@dataclass
class DAGContext:
    """Defaults of the graphs that this process compiles; a variable ``RAY_CGRAPH_<name>`` sets the first value.

    Times are in seconds, -1 for no limit; sizes in bytes.
    """

    submit_timeout: float = 10  # that execute waits for room
    get_timeout: float = 10  # that a get without a timeout of its own waits for a result
    teardown_timeout: float = 30  # that teardown waits for the actors to finish what they run
    buffer_size_bytes: int = 1_000_000  # of a message; a larger one gets a larger buffer
    max_inflight_executions: int = 10  # executions whose result was not fetched
    max_buffered_results: int = 1000  # results that were received and not asked for yet

    @staticmethod
    def get_current() -> DAGContext:
        """The context of this process."""
        global _current
        if _current is None:
            found: dict[str, Any] = {}
            for field in fields(DAGContext):
                text = os.environ.get(f"RAY_CGRAPH_{field.name}")
                if text:
                    try:
                        found[field.name] = float(text) if field.type == "float" else int(float(text))
                    except ValueError:
                        raise ValueError(f"RAY_CGRAPH_{field.name} must be a number, not {text!r}") from None
            _current = DAGContext(**found)
        return _current


class CompileOptions(NamedTuple):
    """What ``experimental_compile`` was given, or the context has; None as a time means no limit."""

    submit_timeout: float | None
    get_timeout: float | None
    teardown_timeout: float | None
    buffer_size_bytes: int
    max_inflight_executions: int
    max_buffered_results: int
    enable_asyncio: bool

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Check and complete; ValueError names the option that is wrong."""
        context = DAGContext.get_current()
        values = {name: plain(given.get(name)) if given.get(name) is not None else getattr(context, name)
                  for name in cls._fields if name != "enable_asyncio"}
        for name in ("buffer_size_bytes", "max_inflight_executions", "max_buffered_results"):
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ValueError(f"`_{name}` must be a positive integer, found {value!r}")
        if values["max_inflight_executions"] > SLOTS_MAX:
            raise ValueError(f"`_max_inflight_executions` can be at most {SLOTS_MAX}, found "
                             f"{values['max_inflight_executions']}: each channel keeps memory for so many values")
        for name in ("submit_timeout", "get_timeout", "teardown_timeout"):
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 and value != -1:
                raise ValueError(f"`_{name}` must be a number of seconds, or -1 for no limit, found {value!r}")
            values[name] = None if value == -1 else float(value)
        return cls(**values, enable_asyncio=bool(given.get("enable_asyncio")))
