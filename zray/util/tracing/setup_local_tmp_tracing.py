"""A tracing startup hook for a first look: each process appends its spans to a file among the logs of the session."""

from __future__ import annotations

import os

from zray.handles.connection import connected


def setup_tracing() -> None:
    """Write each span as a line of JSON to ``<session>/logs/spans-<pid>.jsonl``, as soon as it ends."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    path = os.path.join(connected().process.session_dir, "logs", f"spans-{os.getpid()}.jsonl")
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "w", encoding="utf-8",
                     buffering=1)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(
        out=file, formatter=lambda span: span.to_json(indent=None) + "\n")))
    trace.set_tracer_provider(provider)
