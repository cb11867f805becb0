"""Nothing waits silently: each cause of waiting, in a real situation, in explain, the warning and GetTimeoutError."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from tests.e2e.target import exceptions, ray, until, waits_because

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
    """Checks that all three ways tell the same; returns the text."""

    def check(ref, *words: str) -> str:
        said = waits_because(ref, *words)
        with caplog.at_level(logging.WARNING, "zray"):
            until(lambda: warned(ref, words), lambda: f"a warning says {words}; they say {caplog.text}")
        return said["explain"]

    def warned(ref, words) -> bool:
        caplog.clear()
        with pytest.raises(exceptions.GetTimeoutError):
            ray.get(ref, timeout=0.15)  # longer than warn_wait_s
        return all(word in caplog.text for word in words)

    return check


def test_a_chain_of_dependencies_is_told_to_its_end(node, hold, says):
    first = hold.remote(node)
    last = hold.remote(node, hold.remote(node, first))
    text = says(last, "waits for arguments that are not ready", "its task is running")
    assert len(text.splitlines()) == 3 and first.hex() in text.splitlines()[-1]


def test_busy_resources_and_who_has_them(node, hold, says):
    running = hold.remote(node)
    node.wait_arrived(1)
    waiting = hold.options(num_cpus=2).remote(node)
    says(waiting, "resources its task asks for are in use", "CPU: 2, and 1 of 2 is free", "hold (1)")
    says(running, "its task is running", "pid ")


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
    says(held, "its task is running", f"pid {pid}")
    says(behind, "its actor has earlier calls to run", "1 ahead of it")
    other = Actor.remote(str(tmp_path / "two"), node)
    pid = ray.get(other.f.remote())
    argument = hold.remote(node)
    late, later = other.f.remote(argument), other.f.remote()
    says(late, "waits for arguments that are not ready", "hold()")
    says(later, "an earlier call of the same caller waits for its arguments")
    ray.cancel(late)
    ray.get(later, timeout=30)
    os.kill(pid, signal.SIGKILL)
    until(lambda: "restarted" in ray.explain(other.f.remote()), "its death is known")
    says(other.f.remote(), "its actor is being restarted")


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
    says(borrowed, "whose owner says", "hold()", "its task is running")
    says(waits.remote(node), "waits()", "it waits in get or wait", "hold()", "its task is running")


def test_a_full_object_store_is_told(node, says):
    import numpy as np

    @ray.remote
    def produce():
        return np.ones(30 << 20, np.uint8)

    kept = [ray.get(ray.put(np.ones(30 << 20, np.uint8))) for _ in range(2)]  # read in place: nothing can move
    says(produce.remote(), "produce()", "the object store is full")
    del kept


def test_a_worker_that_starts(node, hold, says):
    from zray.connection import connected

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
