"""OpenTelemetry spans of submissions, and the trace context that travels with a task; off unless a hook is given.

:func:`begin` puts itself before the calls of one Runtime, as zray.core.recording does.  Without a hook nothing of this
is loaded.  A task carries the context of its submission in the field ``trace`` of its extra map, an actor in that of
its specification: W3C's ``traceparent`` and ``tracestate``.  zray.worker.tracing makes the spans of runs.

Names and attributes are those of Ray's spans: "f ray.remote" when it is submitted, "f ray.remote_worker" when it runs.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from zray.base import ids
from zray.core.runtime import Runtime

LAST_SPANS_S = 2.0  # at the end of a driver, for spans that its exporter has not sent
INSTALL = "tracing needs the package opentelemetry-sdk: pip install 'zray[otel]'"

logger = logging.getLogger("zray")


def run_hook(hook: str) -> Any:
    """Set up tracing in this process as the user's hook does it; returns OpenTelemetry's tracer."""
    from importlib import import_module

    module, _, name = hook.partition(":")
    try:
        from opentelemetry import trace
    except ImportError:
        raise ImportError(INSTALL) from None
    found = getattr(import_module(module), name, None)
    if not callable(found):
        raise ValueError(f"the tracing startup hook {hook!r} names no function of that module")
    found()
    return trace.get_tracer("zray")


def flush(seconds: float) -> None:
    """Send the spans that wait for their exporter."""
    from opentelemetry import trace

    force = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force is not None:
        try:
            force(int(1000 * seconds))
        except Exception as error:  # an exporter may raise anything, and the program ends as if it had not
            logger.warning("spans may be lost: %s: %s", type(error).__name__, error)


class _Carried(threading.local):
    """The context of the submission that this thread makes now."""

    trace: dict[str, str] | None = None


class TracedCalls:
    """The submissions of one process."""

    def __init__(self, runtime: Runtime, tracer: Any):
        self.runtime = runtime
        self.tracer = tracer
        self._carried = _Carried()

    def install(self) -> None:
        rt: Any = self.runtime
        rt.submit = self._around(rt.submit, lambda fn, *_: (fn.name, {"ray.remote": "task", "ray.function": fn.name}))
        rt.call = self._around(rt.call, _of_call)
        rt.create_actor = self._around(rt.create_actor, lambda cls, *_: (f"{cls.name}.__init__", {
            "ray.remote": "actor", "ray.actor_class": cls.name, "ray.actor_method": "__init__"}))
        rt.map = self._map
        rt.submitter.submit = self._carrying(rt.submitter.submit, 0)
        rt.machine.calls.submit = self._carrying(rt.machine.calls.submit, 1)
        rt.actors.carried = lambda: self._carried.trace
        rt.shutdown = self._closing(rt.shutdown)

    def about(self) -> dict[str, Any]:
        """Attributes of each span."""
        process = self.runtime.process
        return {"ray.job_id": f"{process.job:0{2 * ids.JOB_SIZE}x}", "ray.pid": os.getpid(),
                "ray.node_id": str(process.node_info.get("NodeID") or ""), "ray.worker_id": process.incarnation.hex()}

    def _around(self, call: Callable[..., Any], of: Callable[..., tuple[str, dict[str, str]]]) -> Callable[..., Any]:
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        def traced(*args: Any) -> Any:
            name, attributes = of(*args)
            outer = self._carried.trace
            with self.tracer.start_as_current_span(f"{name} ray.remote", kind=SpanKind.PRODUCER,
                                                   attributes={**attributes, **self.about()}):
                carrier: dict[str, str] = {}
                propagate.inject(carrier)
                self._carried.trace = carrier
                try:
                    return call(*args)
                finally:
                    self._carried.trace = outer

        return traced

    def _carrying(self, submit: Callable[..., Any], place: int) -> Callable[..., Any]:
        """``submit`` of a machine, whose argument at ``place`` is the record of a task."""
        def carrying(*args: Any, **kwargs: Any) -> Any:
            trace = self._carried.trace
            if trace:
                task = args[place]
                task.extra = {**(task.extra or {}), "trace": trace}
            return submit(*args, **kwargs)

        return carrying

    def _map(self, fn: Any, items: Any, options: Any, star: bool) -> list[Any]:
        """A task for each item, so that each has a span: chunks carry no context."""
        return [self.runtime.submit(fn, tuple(item) if star else (item,), {}, options) for item in items]

    def _closing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def shutdown(*args: Any, **kwargs: Any) -> Any:
            flush(LAST_SPANS_S)
            return call(*args, **kwargs)

        return shutdown


def _of_call(handle: Any, method: str, *rest: Any) -> tuple[str, dict[str, str]]:
    cls = handle._about.class_name
    return f"{cls}.{method}", {"ray.remote": "actor", "ray.actor_class": cls, "ray.actor_method": method,
                               "ray.actor_id": handle._actor.hex(), "ray.function": f"{cls}.{method}"}


def begin(runtime: Runtime, hook: str) -> TracedCalls:
    """Run the hook in this process, and trace its submissions from now on."""
    calls = TracedCalls(runtime, run_hook(hook))
    calls.install()
    return calls
