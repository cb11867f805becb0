"""Metrics of this process, and their way to the node."""

from __future__ import annotations

from typing import Any

from zray.handles.connection import current
from zray.metrics.recorder import Recorder
from zray.wire.messages import MetricsReport

METRICS_EVERY_S = 0.5
_recorder = Recorder()  # of this process, also before it is connected
_reports: dict[str, Any] = {"by": None}  # the runtime that will report what is recorded now


def record(*row: Any) -> None:
    """Record a value (zray.metrics.recorder.Recorder.add), and see that a report follows."""
    _recorder.add(*row)
    runtime = current()
    if runtime is not _reports["by"] and hasattr(runtime, "report_metrics_after"):  # local mode reports nothing
        _reports["by"] = runtime
        runtime.report_metrics_after(METRICS_EVERY_S)


def report() -> MetricsReport | None:
    """What was recorded since the last report; None when nothing was."""
    _reports["by"] = None
    rows, dropped = _recorder.take()
    return MetricsReport(rows, dropped) if rows or dropped else None
