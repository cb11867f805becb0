"""OpenTelemetry traces of tasks and actors: ``init(_tracing_startup_hook="module:function")``.

The hook runs in the driver and in each worker, and sets up OpenTelemetry's tracer provider.  One that writes files is
``zray.util.tracing.setup_local_tmp_tracing:setup_tracing``.
"""
