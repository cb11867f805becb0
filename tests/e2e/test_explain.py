"""Nothing waits silently: each cause of waiting, in a real situation, in explain, the warning and GetTimeoutError."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from tests.e2e.target import exceptions, ray, until, waits_because
from zray.base.ids import short

pytestmark = pytest.mark.zray_only


@pytest.fixture
def node(fresh, gate):
    ray.init(num_cpus=2, _system_config={"warn_wait_s": 0.05, "store_full_wait_s": 60.0},
             object_store_memory=80 << 20)
    yield gate
    gate.open()


@pytest.fixture
def hold(node):
    @ray.remote
    def hold(gate, *waits_for):
        gate.wait()

    return hold


@pytest.fixture
def says(caplog):
    """Checks that explain and the error tell the same, and that a warning names the root in one line; returns the text.

    Of what is ``healthy`` there is no warning.
    """
    from zray.handles.connection import connected

    def check(ref, *words: str, healthy: bool = False) -> str:
        said = waits_because(ref, *words)
        with caplog.at_level(logging.WARNING, "zray"):
            if healthy:
                assert not warned(ref, words) and not caplog.text
            else:
                until(lambda: warned(ref, words), lambda: f"a warning says {words}; they say {caplog.text}")
        return said["explain"]

    def warned(ref, words) -> bool:
        caplog.clear()
        connected().warned.forget()  # what was said before is said again
        with pytest.raises(exceptions.GetTimeoutError):
            ray.get(ref, timeout=0.2)  # longer than warn_wait_s
        messages = [record.getMessage() for record in caplog.records]
        assert not any("\n" in message for message in messages)
        return any(word in message for message in messages for word in words)

    return check


def test_a_chain_of_dependencies_is_told_to_its_end(node, hold, says):
    first = hold.remote(node)
    last = hold.remote(node, hold.remote(node, first))
    text = says(last, "waits for arguments that are not ready", "its task is running", healthy=True)
    assert len(text.splitlines()) == 3 and short(first.binary()) in text.splitlines()[-1]


def test_busy_resources_and_who_has_them(node, hold, says):
    running = hold.remote(node)
    node.wait_arrived(1)
    waiting = hold.options(num_cpus=2).remote(node)
    says(waiting, "resources its task asks for are in use", "CPU: 2, and 1 of 2 is free", "hold (1)")
    says(running, "its task is running", "pid ", healthy=True)


def test_infeasible_demands_say_what_is_missing_and_what_there_is(node, hold, says):
    says(hold.options(num_gpus=1).remote(node), "no node has the resources", "GPU: 1", "it has CPU: 2")
    says(hold.options(num_cpus=3).remote(node), "no node has the resources", "CPU: 3", "CPU: 2")


def test_actors_that_are_not_there(node, hold, says):
    @ray.remote(num_gpus=1)
    class Infeasible:
        def f(self):
            pass

    @ray.remote(num_cpus=2)
    class Wide:
        def f(self):
            pass

    refs = [hold.remote(node)]
    node.wait_arrived(1)
    actors = Infeasible.remote(), Wide.remote()
    says(actors[0].f.remote(), "its actor is not created yet", "GPU: 1", "it has CPU: 2")
    says(actors[1].f.remote(), "its actor is not created yet", "1 of 2 is free", "hold (1)")
    del refs


def test_actors_that_are_busy_in_order_or_restarting(node, hold, says, tmp_path):
    @ray.remote(num_cpus=0, max_restarts=1)
    class Actor:
        def __init__(self, marker, gate):
            if os.path.exists(marker):
                gate.wait()
            open(marker, "w").close()

        def f(self, *args):
            return os.getpid()

        def hold(self, gate):
            gate.wait()

    actor = Actor.remote(str(tmp_path / "one"), node)
    pid = ray.get(actor.f.remote())
    held, behind = actor.hold.remote(node), actor.f.remote()
    says(held, "its task is running", f"pid {pid}", healthy=True)
    says(behind, "its actor has earlier calls to run", "1 ahead of it", "hold() came first and runs")
    other = Actor.remote(str(tmp_path / "two"), node)
    pid = ray.get(other.f.remote())
    argument = hold.remote(node)
    node.wait_arrived(2)
    late, later = other.f.remote(argument), other.f.remote()
    says(late, "waits for arguments that are not ready", "hold()", healthy=True)
    says(later, "an earlier call of the same caller waits for its arguments")
    ray.cancel(late)
    ray.get(later, timeout=30)
    os.kill(pid, signal.SIGKILL)
    retried = other.f.options(max_task_retries=1)  # others fail at once
    until(lambda: "restarted" in ray.explain(retried.remote()), "its death is known")
    says(retried.remote(), "its actor is being restarted")


def test_a_generator_that_waits_for_its_consumer(node):
    @ray.remote(num_returns="streaming", _generator_backpressure_num_objects=2)
    def generate():
        yield from range(10)

    items = generate.remote()
    until(lambda: "waits for the consumer (2 items" in ray.explain(items), "back-pressure is told")
    assert [ray.get(item) for item in items] == list(range(10))
    assert "it is ready" in ray.explain(items)


def test_objects_of_others_and_tasks_that_wait_are_asked_about(node, hold, says):
    @ray.remote(num_cpus=0)
    def lends(gate):
        return [hold.options(num_cpus=0).remote(gate)]

    @ray.remote(num_cpus=0)
    def waits(gate):
        return ray.get(hold.options(num_cpus=0).remote(gate), timeout=60)

    [borrowed] = ray.get(lends.remote(node))
    says(borrowed, "whose owner says", "hold()", "its task is running", healthy=True)
    says(waits.remote(node), "waits()", "it waits in get or wait", "hold()", "its task is running", healthy=True)


def test_a_full_object_store_is_told(node, says):
    import numpy as np

    @ray.remote
    def produce():
        return np.ones(30 << 20, np.uint8)

    kept = [ray.get(ray.put(np.ones(30 << 20, np.uint8))) for _ in range(2)]  # read in place: nothing can move
    says(produce.remote(), "produce()", "the object store is full")
    del kept


def test_a_worker_that_starts(node, hold, says):
    from zray.handles.connection import connected

    psutil = pytest.importorskip("psutil")
    daemon = psutil.Process(connected().query("nodes")["nodes"][0]["pid"])
    held = []  # workers that were started ahead may still become anybody's: each gets something to do
    while len(held) < connected().query("workers")["total"]:
        held.append(hold.options(num_cpus=0).remote(node))
        node.wait_arrived(len(held))
    [zygote] = [child for child in daemon.children() if child.name() == "zray-zygote"]
    zygote.suspend()
    try:
        says(hold.options(num_cpus=0, runtime_env={"env_vars": {"NOBODY_HAS": "this"}}).remote(node),
             "a worker process")
    finally:
        zygote.resume()


class Waiting:
    """Actors that wait for each other, or for themselves."""

    def meet(self, other):
        self.other = other

    def go(self, gate, callers=1):
        gate.arrive()
        gate.wait_arrived(callers)  # else the other one answers before it goes itself
        return ray.get(self.other.ping.remote())

    def hold(self, gate):
        gate.wait()

    def ping(self):
        return 1


def test_an_actor_that_waits_for_itself_is_in_a_deadlock_and_its_call_is_named(node, says):
    actor = ray.remote(num_cpus=0)(Waiting).remote()
    ray.get(actor.meet.remote(actor))
    text = says(actor.go.remote(node), "Waiting.ping()", "its actor has earlier calls to run",
                "Waiting.go() came first and has not ended: a deadlock")
    assert "running" not in text


def test_two_actors_that_wait_for_each_other_are_in_a_deadlock(node, says):
    one, other = (ray.remote(num_cpus=0)(Waiting).remote() for _ in range(2))
    ray.get([one.meet.remote(other), other.meet.remote(one)])
    refs = [one.go.remote(node, 2), other.go.remote(node, 2)]
    says(refs[0], "a deadlock")
    says(refs[1], "a deadlock")


def test_a_call_behind_that_of_another_caller_does_not_run(node, says):
    actor = ray.remote(num_cpus=0)(Waiting).remote()

    @ray.remote(num_cpus=0)
    def calls(actor):
        return ray.get(actor.ping.remote())

    held = actor.hold.remote(node)
    node.wait_arrived(1)
    text = says(calls.remote(actor), "it waits in get or wait", "its actor has earlier calls to run",
                "Waiting.hold() came first and runs")
    assert "its task is running" not in text
    del held


def test_a_threaded_actor_says_which_calls_are_ahead(node, says):
    actor = ray.remote(num_cpus=0, max_concurrency=2)(Waiting).remote()
    held = [actor.hold.remote(node) for _ in range(2)]
    node.wait_arrived(2)
    says(actor.ping.remote(), "its actor has earlier calls to run", "2 ahead of it",
         "Waiting.hold() came first and runs")
    del held


def test_an_actor_that_is_being_constructed_is_no_reason_for_a_warning(node, says):
    @ray.remote(num_cpus=0)
    class Slow:
        def __init__(self, gate):
            gate.wait()

        def f(self):
            pass

    actor = Slow.remote(node)
    node.wait_arrived(1)
    says(actor.f.remote(), "the constructor of its actor is running", healthy=True)


def test_many_workers_that_wait_for_one_thing_are_one_warning(fresh, gate, caplog):
    ray.init(num_cpus=2, _system_config={"warn_wait_s": 0.2})
    actor = ray.remote(num_cpus=0)(Waiting).remote()

    @ray.remote(num_cpus=0)
    def calls(actor, gate):
        gate.arrive()
        return ray.get(actor.ping.remote())

    with caplog.at_level(logging.WARNING, "zray"):
        held = actor.hold.remote(gate)
        gate.wait_arrived(1)  # else calls of other callers may come first
        refs = [calls.remote(actor, gate) for _ in range(4)]
        gate.wait_arrived(5)
        until(lambda: "has waited" in caplog.text, "somebody says it")
        with pytest.raises(exceptions.GetTimeoutError):
            ray.get(refs, timeout=1.5)
    gate.open()
    assert ray.get([held, *refs]) == [None, 1, 1, 1, 1]
    assert caplog.text.count("has waited") == 1


@pytest.mark.parametrize("silent", [0, -1])
def test_no_time_or_less_turns_the_warning_off(fresh, caplog, silent):
    ray.init(num_cpus=1, _system_config={"warn_wait_s": silent})

    @ray.remote(num_gpus=1)
    def never():
        pass

    with caplog.at_level(logging.WARNING, "zray"), pytest.raises(exceptions.GetTimeoutError):
        ray.get(never.remote(), timeout=0.3)
    assert not caplog.text
