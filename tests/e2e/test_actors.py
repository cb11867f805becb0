"""Actors, from the user's side: state, order, names, life and death, concurrency."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from tests.e2e.target import exceptions, ray, until


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


def make_counter():
    @ray.remote
    class Counter:
        def __init__(self, start=0):
            self.value = start

        def add(self, by=1):
            self.value += by
            return self.value

        def pid(self):
            return os.getpid()

        def fail(self):
            raise ValueError("failed on purpose")

        def end(self):
            ray.actor.exit_actor()

        def crash(self):
            os._exit(7)

    return Counter


def test_an_actor_keeps_its_state_between_calls():
    counter = make_counter().remote(start=10)
    assert ray.get([counter.add.remote() for _ in range(3)]) == [11, 12, 13]


def test_calls_of_one_caller_run_in_order():
    counter = make_counter().remote()
    assert ray.get([counter.add.remote() for _ in range(2000)]) == list(range(1, 2001))


def test_a_call_whose_argument_is_late_holds_back_the_calls_after_it(gate):
    @ray.remote
    def late():
        gate.wait()
        return 100

    counter = make_counter().remote()
    refs = [counter.add.remote(late.remote()), counter.add.remote(1)]
    gate.wait_arrived()
    gate.open()
    assert ray.get(refs) == [100, 101]


def test_an_actor_class_cannot_be_instantiated_directly():
    with pytest.raises(TypeError, match="Actors cannot be instantiated directly"):
        make_counter()()


def test_an_actor_method_cannot_be_called_directly():
    with pytest.raises(TypeError, match="Actor methods cannot be called directly"):
        make_counter().remote().add()


def test_a_method_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError):
        make_counter().remote().nonsense.remote()


def test_a_method_that_raises_leaves_the_actor_alive():
    counter = make_counter().remote()
    counter.add.remote()
    with pytest.raises(ValueError, match="failed on purpose"):
        ray.get(counter.fail.remote())
    assert ray.get(counter.add.remote()) == 2


def test_handles_travel_to_tasks_and_other_actors():
    @ray.remote
    def use(counter):
        return ray.get(counter.add.remote(5))

    counter = make_counter().remote()
    assert ray.get(use.remote(counter)) == 5
    assert ray.get([use.remote(c) for c in [counter] * 3])[-1:] <= [20]
    assert ray.get(counter.add.remote(0)) == 20


def test_methods_take_options_and_several_returns():
    @ray.remote
    class Pairs:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

        def triple(self):
            return 1, 2, 3

    pairs = Pairs.remote()
    assert ray.get(pairs.pair.remote()) == [1, 2]
    assert ray.get(pairs.triple.options(num_returns=3).remote()) == [1, 2, 3]


def test_inheritance_and_class_attributes_work():
    class Base:
        scale = 2

        def scaled(self, x):
            return self.scale * x

    @ray.remote
    class Child(Base):
        def scaled(self, x):
            return super().scaled(x) + 1

    assert ray.get(Child.remote().scaled.remote(10)) == 21


def test_a_constructor_that_raises_fails_the_calls_with_its_traceback():
    @ray.remote
    class Broken:
        def __init__(self):
            raise RuntimeError("no way to start")

        def hello(self):
            return "hello"

    broken = Broken.remote()
    with pytest.raises(exceptions.RayActorError, match="no way to start"):
        ray.get(broken.hello.remote())


def test_killed_actors_fail_later_calls():
    counter = make_counter().remote()
    ray.get(counter.add.remote())
    ray.kill(counter)
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.add.remote())


def test_kill_takes_only_actor_handles():
    with pytest.raises(ValueError, match="actor"):
        ray.kill(ray.put(1))


def test_an_actor_that_exits_by_itself_fails_later_calls():
    counter = make_counter().remote()
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.end.remote())
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.add.remote())


def test_an_actor_restarts_from_its_constructor_when_its_process_dies():
    counter = make_counter().options(max_restarts=1, max_task_retries=-1).remote(start=100)
    first = ray.get(counter.pid.remote())
    ray.get(counter.add.remote())
    os.kill(first, 9)
    assert ray.get(counter.add.remote()) == 101
    assert ray.get(counter.pid.remote()) != first


def test_max_restarts_is_a_limit():
    counter = make_counter().options(max_restarts=1).remote()
    for _ in range(2):
        ray.get(counter.__ray_ready__.options(max_task_retries=-1).remote())  # without retries none waits for a restart
        with pytest.raises(exceptions.RayActorError):
            ray.get(counter.crash.remote())
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(counter.add.remote())


def test_calls_of_a_dead_actor_without_restarts_fail_with_the_cause():
    counter = make_counter().remote()
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(counter.crash.remote())


def test_named_actors_are_found_and_names_are_free_after_death():
    Counter = make_counter()
    counter = Counter.options(name="the counter").remote()
    ray.get(counter.add.remote(7))
    assert ray.get(ray.get_actor("the counter").add.remote()) == 8
    with pytest.raises(ValueError, match="the counter"):
        Counter.options(name="the counter").remote()
    ray.kill(counter)

    def free():
        try:
            return ray.get(Counter.options(name="the counter").remote().add.remote()) == 1
        except ValueError:
            return False

    until(free, "the name is free")


def test_get_actor_of_an_unknown_name_is_a_value_error():
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("nobody")


@pytest.mark.zray_only
def test_get_actor_says_in_which_namespace_the_name_is_or_what_was_meant():
    there = make_counter().options(name="over there", namespace="elsewhere").remote()
    here = make_counter().options(name="over here").remote()
    ray.get([there.add.remote(), here.add.remote()])
    with pytest.raises(ValueError, match="it is in the namespace 'elsewhere'"):
        ray.get_actor("over there")
    assert ray.get(ray.get_actor("over there", namespace="elsewhere").add.remote()) == 2
    with pytest.raises(ValueError, match="did you mean 'over here'?"):
        ray.get_actor("over her")


def test_get_if_exists_returns_the_same_actor():
    options = {"name": "single", "get_if_exists": True}
    one = make_counter().options(**options).remote()
    ray.get(one.add.remote())
    two = make_counter().options(**options).remote()
    assert ray.get(two.add.remote()) == 2
    ray.kill(one)


def test_an_actor_ends_when_its_last_handle_goes():
    counter = make_counter().remote()
    pid = ray.get(counter.pid.remote())
    del counter
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the actor's process ends")


def test_calls_in_flight_finish_when_the_last_handle_goes():
    ref = make_counter().remote(start=1).add.remote()
    assert ray.get(ref) == 2


def test_async_actors_interleave_calls_at_await():
    @ray.remote
    class Meeting:
        def __init__(self):
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return "met"

        async def arrive(self):
            self.event.set()

    meeting = Meeting.remote()
    waiting = [meeting.wait.remote() for _ in range(10)]
    ray.get(meeting.arrive.remote())
    assert ray.get(waiting) == ["met"] * 10


def test_max_concurrency_bounds_an_async_actor():
    @ray.remote(max_concurrency=3)
    class Bounded:
        def __init__(self):
            self.now = self.most = 0
            self.full = asyncio.Event()

        async def run(self):
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 3:
                self.full.set()
            await self.full.wait()
            await asyncio.sleep(0)
            self.now -= 1
            return self.most

    bounded = Bounded.remote()
    assert max(ray.get([bounded.run.remote() for _ in range(50)])) == 3


def test_threaded_actors_run_calls_side_by_side():
    @ray.remote(max_concurrency=4)
    class Threads:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def meet(self):
            self.barrier.wait(timeout=30)
            return threading.get_ident()

    threads = Threads.remote()
    assert len(set(ray.get([threads.meet.remote() for _ in range(4)]))) == 4


def test_concurrency_groups_do_not_block_each_other():
    @ray.remote(concurrency_groups={"io": 1, "compute": 1})
    class Groups:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self):
            return self.event.wait(30)

        @ray.method(concurrency_group="compute")
        def set(self):
            self.event.set()

    groups = Groups.remote()
    waiting = groups.wait.remote()
    ray.get(groups.set.remote())
    assert ray.get(waiting) is True


def test_max_pending_calls_refuses_more(gate):
    @ray.remote(max_pending_calls=2)
    class Slow:
        def wait(self):
            gate.wait()

    slow = Slow.remote()
    refs = []
    with pytest.raises(exceptions.PendingCallsLimitExceeded):
        for _ in range(10):
            refs.append(slow.wait.remote())
    gate.open()
    ray.get(refs)


def test_an_actor_of_an_actor_and_a_call_to_itself_through_a_task():
    @ray.remote
    class Parent:
        def __init__(self):
            self.child = make_counter().remote(start=1)

        def ask(self):
            return ray.get(self.child.add.remote())

    assert ray.get(Parent.remote().ask.remote()) == 2


def test_zray_ready_and_terminate_methods_exist_on_every_actor():
    counter = make_counter().remote()
    ray.get(counter.__ray_ready__.remote())
    assert ray.get(counter.__ray_call__.remote(lambda self: self.value)) == 0
    pid = ray.get(counter.pid.remote())
    counter.__ray_terminate__.remote()
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the actor's process ends")


def test_more_actors_than_cpus_live_at_once():
    actors = [make_counter().remote(start=i) for i in range(12)]
    assert ray.get([a.add.remote() for a in actors]) == list(range(1, 13))
    assert len(set(ray.get([a.pid.remote() for a in actors]))) == 12


def test_hundreds_of_actors_that_are_created_at_once_all_come_up():
    """Their processes dial the node faster than it accepts."""
    counter = make_counter().options(num_cpus=0)
    actors = [counter.remote(start=i) for i in range(400)]
    assert ray.get([a.add.remote() for a in actors], timeout=60) == list(range(1, 401))
