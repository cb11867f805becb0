"""Logging of a whole job: ``init(logging_config=LoggingConfig(encoding="JSON"))`` sets up the driver and its workers.

The root logger gets one handler, which writes to stderr (the driver shows the stderr of its workers).  It adds to
each record its job, worker and node, and the ids and names of its task and actor.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LoggingConfig"]

ENCODINGS = ("TEXT", "JSON")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message"}
_ALWAYS = ("asctime", "levelname", "message", "filename", "lineno", "exc_text")
_ABOUT = ("job_id", "worker_id", "node_id", "actor_id", "actor_name", "task_id", "task_name")


@dataclass
class LoggingConfig:
    """How workers and driver write log records.

    ``encoding`` is "TEXT" or "JSON" (one JSON object a line); ``log_level`` is the level of the root logger;
    ``additional_log_standard_attrs`` are further attributes of ``logging.LogRecord`` to show.  ValueError for an
    unknown encoding, level or attribute.
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"Invalid encoding type: {self.encoding}. Valid encoding types are: {list(ENCODINGS)}")
        if self.log_level not in logging.getLevelNamesMapping():
            raise ValueError(f"Invalid log level: {self.log_level!r}. Valid log levels are: "
                             f"{list(logging.getLevelNamesMapping())}")
        for name in self.additional_log_standard_attrs:
            if name not in _STANDARD:
                raise ValueError(f"Unknown python logging standard attribute: {name}. The valid attributes are: "
                                 f"{sorted(_STANDARD)}")

    def to_map(self) -> dict[str, Any]:
        """For the workers of the job."""
        return asdict(self)

    def to_dict(self) -> dict[str, Any]:
        """The keywords that make an equal one."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> LoggingConfig:
        """The configuration with these fields."""
        return cls(**d)

    def apply(self) -> None:
        """Set up this process."""
        handler = _ToStderr()
        handler.setFormatter(_Formatter(self.encoding, self.additional_log_standard_attrs))
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(self.log_level)
        logging.getLogger("zray").setLevel(self.log_level)


class _ToStderr(logging.StreamHandler):
    """Writes to the present ``sys.stderr``, which changes when a worker starts, and in notebooks and tests."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class _Formatter(logging.Formatter):
    def __init__(self, encoding: str, more: list[str]):
        from zray.core.waits.patience import MARK  # begins the warnings of a worker's waits

        super().__init__()
        self._mark = MARK
        self._encoding = encoding
        self._more = more

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if record.message.startswith(self._mark):
            return record.message  # unchanged, because the driver merges the warnings of all its workers
        record.asctime = self.formatTime(record)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        about = {**_where(), **{name: getattr(record, name) for name in self._more},
                 **{name: value for name, value in vars(record).items() if name not in _STANDARD}}
        if self._encoding == "JSON":
            always = {name: getattr(record, name) for name in _ALWAYS if getattr(record, name)}
            return json.dumps({**always, **about, "timestamp_ns": int(record.created * 1e9)}, default=str)
        text = f"{record.asctime}\t{record.levelname} {record.filename}:{record.lineno} -- {record.message}"
        text += "".join(f" {name}={value}" for name, value in about.items())
        return f"{text}\n{record.exc_text}" if record.exc_text else text


def _where() -> dict[str, str]:
    """Names and ids of the job, worker, node, actor and task, as far as they exist."""
    from zray.core.runtime_context import RuntimeContext
    from zray.handles.connection import current

    runtime = current()
    if runtime is None:
        return {}
    context = RuntimeContext(runtime)
    found = {name: getattr(context, f"get_{name}")() for name in _ABOUT}
    return {name: value for name, value in found.items() if value}
