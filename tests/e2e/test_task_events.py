"""timeline() and task listings, from real workers."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time

import pytest

from tests.e2e.target import ray, until
from tests.unit.test_trace import check_form

pytestmark = pytest.mark.zray_only


def tasks(**filters):
    from zray.util.state import list_tasks

    return list_tasks(filters=[(key, "=", value) for key, value in filters.items()], limit=10_000, detail=True)


def test_every_kind_of_task_is_in_the_timeline(cluster, tmp_path):
    @ray.remote
    def quick():
        return 1

    @ray.remote
    def broken():
        raise ValueError("on purpose")

    @ray.remote
    class Counter:
        def add(self):
            return 1

    @ray.remote
    class Slow:
        async def tick(self):
            return 2

    @ray.remote(max_concurrency=2)
    class Threaded:
        def work(self):
            return 3

    ray.get([quick.remote() for _ in range(5)])
    with pytest.raises(ValueError):
        ray.get(broken.remote())
    actors = Counter.remote(), Slow.remote(), Threaded.remote()
    ray.get([actors[0].add.remote(), actors[1].tick.remote(), actors[2].work.remote()])
    ray.get(quick.remote())
    square = ray.remote(lambda x: x * x)
    ray.get(square.map(range(1000)))

    def names():
        found = [event["name"] for event in ray.timeline()]
        wanted = ("quick", "broken", "Counter.add", "Slow.tick", "Threaded.work", " x ")
        return found if all(any(want in name for name in found) for want in wanted) else None

    found = until(names, "all kinds of tasks are reported")
    assert sum("quick" in name for name in found) == 6
    check_form(ray.timeline())
    for event in ray.timeline():
        assert event["ph"] == "M" or abs(event["ts"] / 1e6 - time.time()) < 3600
    ray.timeline(str(tmp_path / "trace.json"))
    assert len(json.loads((tmp_path / "trace.json").read_text())) >= len(found)
    failed = tasks(state="FAILED")
    assert {row.name for row in failed} == {"broken"}


def test_the_timeline_has_running_tasks_up_to_now_and_waits(cluster, gate):
    @ray.remote(num_cpus=0)
    def holds(gate):
        gate.wait()

    @ray.remote(num_cpus=0)
    def waits(refs):
        return ray.get(refs)

    inner = holds.remote(gate)
    outer = waits.remote([inner])
    gate.wait_arrived(1)

    def found():
        events = ray.timeline()
        running = {event["name"]: event for event in events if event.get("cat") == "task"
                   and event["args"].get("running")}
        lasting = [event for event in events if event.get("cat") == "wait" and event["args"].get("running")]
        return (events, running, lasting) if running.keys() >= {"holds", "waits"} and lasting else None

    events, running, lasting = until(found, "both run, and one waits")
    check_form(events)
    threads = {(event["pid"], event["tid"]): event["args"]["name"] for event in events
               if event["name"] == "thread_name"}
    assert threads[lasting[0]["pid"], lasting[0]["tid"]] == f"worker {running['waits']['tid']} waits"
    gate.open()
    ray.get(outer)
    until(lambda: any(event.get("cat") == "wait" and not event["args"] for event in ray.timeline()), "it has ended")


def test_details_are_submissions_gets_and_collections_with_arrows(fresh):
    ray.init(num_cpus=1, _system_config={"timeline_details": True})

    @ray.remote
    def inner():
        return 1

    @ray.remote
    def outer():
        gc.collect()
        return ray.get(inner.remote())

    assert ray.get(outer.remote()) == 1

    def found():
        events = ray.timeline()
        spans = {(event["cat"], event["name"]) for event in events if event["ph"] == "X"}
        wanted = {("submit", "submit outer"), ("submit", "submit inner"), ("get", "get"), ("task", "outer")}
        return events if wanted <= spans and sum(event["ph"] == "s" for event in events) >= 4 else None

    events = until(found, "all are reported")
    check_form(events)
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert f"driver {os.getpid()} calls" in names
    ray.shutdown()
    assert not any(type(each).__name__ == "method" and type(each.__self__).__name__ == "Spans"
                   for each in gc.callbacks), "nothing is left in this process"


def test_transfers_are_in_the_timeline(grow):
    import numpy as np

    grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}})

    @ray.remote(resources={"there": 1})
    def far():
        return np.ones(2 << 20, np.uint8)

    assert ray.get(far.remote()).nbytes == 2 << 20

    def found():
        events = ray.timeline()
        return events if any(event.get("cat") == "transfer" and event["args"]["bytes"] > 2 << 20
                             for event in events) else None

    events = until(found, "the transfer is reported")
    check_form(events)
    assert len({event["pid"] for event in events if event["name"] == "process_name"}) == 2


def test_spilling_is_in_the_timeline(fresh):
    import numpy as np

    ray.init(num_cpus=1, object_store_memory=64 << 20)
    kept = [ray.put(np.full(20 << 20, n, np.uint8)) for n in range(5)]
    assert [ray.get(ref)[0] for ref in kept] == list(range(5))
    until(lambda: {"spill", "restore"} <= {event.get("cat") for event in ray.timeline()}, "both are reported")
    check_form(ray.timeline())
    del kept


def test_running_and_waiting_tasks_are_listed(cluster, gate):
    @ray.remote(num_cpus=4)
    def holds(gate):
        gate.wait()

    refs = [holds.remote(gate) for _ in range(3)]
    gate.wait_arrived(1)
    until(lambda: tasks(state="RUNNING", name="holds"), lambda: f"the running task is listed: {tasks()}")
    waiting = until(lambda: tasks(state="PENDING_NODE_ASSIGNMENT", name="holds"))
    assert "CPU" in waiting[0].pending_reason
    gate.open()
    ray.get(refs)
    until(lambda: not tasks(state="RUNNING", name="holds"), "it has ended")


def test_running_calls_of_threaded_and_async_actors_are_listed(cluster, gate):
    @ray.remote(max_concurrency=2)
    class Threaded:
        def hold(self, gate):
            gate.wait()

    @ray.remote
    class Async:
        async def hold(self, gate):
            await asyncio.to_thread(gate.wait)

    actors = Threaded.remote(), Async.remote()
    refs = [actor.hold.remote(gate) for actor in actors for _ in range(2)]
    gate.wait_arrived(4)

    def running():
        return sorted(row.name.partition(".")[0] for row in tasks(state="RUNNING"))

    until(lambda: running() == ["Async", "Async", "Threaded", "Threaded"], "the calls that run are listed")
    gate.open()
    ray.get(refs)
    until(lambda: not running(), "they have ended")


def test_events_can_be_switched_off(fresh):
    ray.init(num_cpus=1, _system_config={"task_events_per_s_max": 0})
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    assert not [event for event in ray.timeline() if event["ph"] != "M"]


def test_a_task_that_waited_has_its_whole_story(cluster, gate):
    from zray.util.state import get_task

    @ray.remote(num_cpus=4)
    def holds(gate):
        gate.wait()

    @ray.remote(num_cpus=4)
    def waits_in_get(refs):
        return ray.get(refs[0])

    @ray.remote(num_cpus=0)
    def last(gate):
        gate.wait()

    held = holds.remote(gate)
    gate.wait_arrived(1)
    inner = last.remote(gate)
    gate.wait_arrived(2)
    ref = waits_in_get.remote([inner])
    until(lambda: get_task(ref).pending_reason, "the node says why it waits")
    gate.open()
    ray.get([ref, held])
    row = until(lambda: (row := get_task(ref)).state == "FINISHED" and row.pending_reason and row, "its story is told")
    states = [step["state"] for step in row.events]
    assert states[0] == "PENDING_ARGS_AVAIL" and states[-1] == "FINISHED" and "RUNNING" in states
    assert "in use" in row.pending_reason and row.creation_time_ms < row.start_time_ms
