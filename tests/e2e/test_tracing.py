"""OpenTelemetry spans of submissions and runs make one trace, across processes; without a hook there is nothing."""

from __future__ import annotations

import glob
import json
import os
import sys

import pytest

from tests.e2e.target import ray, until

pytestmark = pytest.mark.zray_only
pytest.importorskip("opentelemetry.sdk", reason="the extra 'otel' is not installed")

HOOK = "zray.util.tracing.setup_local_tmp_tracing:setup_tracing"


def spans(session_dir):
    """The spans that have ended, by name; of a file whose last line is not whole, the others."""
    found = {}
    for path in glob.glob(os.path.join(session_dir, "logs", "spans-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    span = json.loads(line)
                    found.setdefault(span["name"], []).append(span)
    return found


@pytest.fixture
def provider():
    """The tracer provider of this process is forgotten after the test: OpenTelemetry allows one for ever."""
    from opentelemetry import trace

    yield
    made, trace._TRACER_PROVIDER = trace._TRACER_PROVIDER, None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()
    if made is not None:
        made.shutdown()
        for processor in made._active_span_processor._span_processors:
            processor.span_exporter.out.close()


def test_tasks_actors_and_what_they_submit_are_one_trace(fresh, provider):
    session = ray.init(num_cpus=4, _tracing_startup_hook=HOOK)["session_dir"]
    from opentelemetry import trace

    @ray.remote
    def inner():
        from opentelemetry import trace as own

        with own.get_tracer("mine").start_as_current_span("by the user"):
            return 1

    @ray.remote
    def outer():
        return ray.get(inner.remote())

    @ray.remote(num_cpus=0)
    class Sync:
        def __init__(self, start):
            self.start = start

        def call(self):
            return ray.get(inner.remote())

    @ray.remote(num_cpus=0)
    class Async:
        async def call(self):
            return await inner.remote()

    @ray.remote
    def fails():
        raise ValueError("on purpose")

    with trace.get_tracer("test").start_as_current_span("the program") as program:
        sync, asynchronous = Sync.remote(1), Async.remote()
        assert ray.get([outer.remote(), sync.call.remote(), asynchronous.call.remote()]) == [1, 1, 1]
        assert ray.get(inner.map(range(0))) == [] and len(ray.get(ray.remote(abs).map([1, 2]))) == 2
        with pytest.raises(ValueError):
            ray.get(fails.remote())
        number = f"0x{program.get_span_context().trace_id:032x}"
    wanted = {"outer": 1, "inner": 3, "Sync.call": 1, "Async.call": 1, "Sync.__init__": 1, "Async.__init__": 1,
              "abs": 2, "fails": 1}

    def found():
        made = spans(session)
        return made if {name: len(made.get(f"{name} ray.remote_worker", ())) for name in wanted} == wanted else None

    made = until(found, lambda: str({name: len(each) for name, each in spans(session).items()}))
    everything = {span["context"]["span_id"]: span for each in made.values() for span in each}
    assert {span["context"]["trace_id"] for span in everything.values()} == {number}
    for name in wanted:
        for span in made[f"{name} ray.remote_worker"]:
            parent = everything[span["parent_id"]]
            assert parent["name"] == f"{name} ray.remote" and span["kind"].endswith("CONSUMER")
            assert parent["attributes"]["ray.pid"] != span["attributes"]["ray.pid"] or name == "inner"
    for span in made["inner ray.remote"]:
        assert everything[span["parent_id"]]["name"] in {f"{name} ray.remote_worker"
                                                         for name in ("outer", "Sync.call", "Async.call")}
    assert {everything[span["parent_id"]]["name"] for span in made["by the user"]} == {"inner ray.remote_worker"}
    [failed] = made["fails ray.remote_worker"]
    assert failed["status"]["status_code"] == "ERROR" and "on purpose" in failed["status"]["description"]
    assert made["Sync.call ray.remote"][0]["attributes"]["ray.actor_class"] == "Sync"


def test_the_setting_traces_all_drivers_and_a_hook_that_fails_in_a_worker_stops_no_task(fresh, provider, tmp_path,
                                                                                        monkeypatch):
    (tmp_path / "driver_only_hook.py").write_text(
        "import os\nfrom zray.util.tracing.setup_local_tmp_tracing import setup_tracing\n"
        f"def setup():\n    if os.getpid() != {os.getpid()}: raise OSError('not here')\n    setup_tracing()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    session = ray.init(num_cpus=1, _system_config={"tracing_startup_hook": "driver_only_hook:setup"})["session_dir"]

    @ray.remote
    def f():
        return 1

    assert ray.get(f.remote()) == 1
    assert set(spans(session)) == {"f ray.remote"}
    sys.modules.pop("driver_only_hook")


@pytest.mark.parametrize("hook, words", [
    ("no colon", "module:function"), ("zray.util.tracing:nothing", "names no function"), (7, "module:function")])
def test_a_wrong_hook_is_refused_by_name(fresh, hook, words):
    with pytest.raises(ValueError, match=words):
        ray.init(num_cpus=1, _tracing_startup_hook=hook)
    assert not ray.is_initialized()


def test_without_a_hook_nothing_of_it_is_loaded(fresh):
    ray.init(num_cpus=1)

    @ray.remote
    def loaded():
        return sorted(name for name in sys.modules if name.startswith("opentelemetry") or name.endswith(".tracing"))

    assert ray.get(loaded.remote()) == []
