"""Mistakes and failures that programs meet: for each, the exception's type, its bases, and its first words.

Printed as one line a case, so that runs on two libraries can be compared.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time

import zray as ray
from zray import exceptions
from zray.util import ActorPool, placement_group, remove_placement_group
from zray.util.queue import Empty, Full, Queue
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

WORDS = 5
CASES = []
GATE = os.path.join(tempfile.mkdtemp(prefix="failures-"), "gate")


def case(function):
    CASES.append(function)
    return function


class Refused(Exception):
    """A user's exception whose constructor takes two arguments."""

    def __init__(self, what: str, code: int):
        super().__init__(f"{what} is refused with {code}")
        self.code = code


@ray.remote
def identity(x):
    return x


@ray.remote
def divides(x):
    return 1 / x


@ray.remote
def waits(path):
    while not os.path.exists(path):
        time.sleep(0.01)


@ray.remote(max_retries=0)
def dies():
    os._exit(3)


@ray.remote
def two():
    return 1, 2, 3


@ray.remote
class Actor:
    def __init__(self, fails=False):
        if fails:
            raise RuntimeError("no engine")

    def value(self, x=1):
        return x

    def divides(self, x):
        return 1 / x

    def dies(self):
        os._exit(4)

    def waits(self, path):
        while not os.path.exists(path):
            time.sleep(0.01)


@ray.remote
class AsyncActor:
    async def fails(self):
        raise LookupError("nothing here")


def alive():
    actor = Actor.remote()
    ray.get(actor.value.remote())
    return actor


# ---- tasks


@case
def a_task_raises():
    ray.get(divides.remote(0))


@case
def an_argument_failed():
    ray.get(identity.remote(divides.remote(0)))


@case
def a_nested_get_raises():
    @ray.remote
    def outer():
        return ray.get(divides.remote(0))

    ray.get(outer.remote())


@case
def a_task_raises_an_exception_of_two_arguments():
    @ray.remote
    def refuses():
        raise Refused("it", 7)

    ray.get(refuses.remote())


@case
def a_task_exits():
    @ray.remote(max_retries=0)
    def exits():
        sys.exit(2)

    ray.get(exits.remote())


@case
def a_worker_dies():
    ray.get(dies.remote())


@case
def too_few_values():
    ray.get(two.options(num_returns=4).remote())


@case
def a_function_is_called_directly():
    identity(1)


@case
def an_argument_is_missing():
    identity.remote()


@case
def an_argument_too_many():
    identity.remote(1, 2)


@case
def an_unknown_keyword():
    identity.remote(y=2)


@case
def an_unknown_option():
    identity.options(num_cpu=1)


@case
def a_negative_resource():
    identity.options(num_cpus=-1)


@case
def cpus_as_text():
    identity.options(num_cpus="two")


@case
def cpus_among_resources():
    identity.options(resources={"CPU": 1})


@case
def a_name_that_is_no_text():
    identity.options(name=1).remote(1)


@case
def an_unknown_strategy():
    identity.options(scheduling_strategy="NEAR").remote(1)


@case
def a_coroutine_function():
    @ray.remote
    async def f():
        return 1

    f.remote()


@case
def a_decorator_with_a_position():
    ray.remote(3)


@case
def an_argument_that_cannot_be_pickled():
    identity.remote(threading.Lock())


@case
def a_closure_that_cannot_be_pickled():
    lock = threading.Lock()

    @ray.remote
    def f():
        return lock

    f.remote()


@case
def a_result_that_cannot_be_pickled():
    @ray.remote
    def f():
        return threading.Lock()

    ray.get(f.remote())


@case
def a_cancelled_task():
    ref = waits.remote(GATE + "-never")
    ray.cancel(ref)
    ray.get(ref)


@case
def a_task_that_waits_for_a_cancelled_one():
    ref = waits.remote(GATE + "-never")
    late = identity.remote(ref)
    ray.cancel(ref)
    ray.get(late)


@case
def cancel_of_something_else():
    ray.cancel(3)


@case
def cancel_of_a_put():
    ray.cancel(ray.put(1))


@case
def a_node_that_does_not_exist():
    strategy = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    ray.get(identity.options(scheduling_strategy=strategy).remote(1))


@case
def a_generator_raises():
    @ray.remote(num_returns="streaming")
    def f():
        yield 1
        raise IndexError("two")

    for ref in f.remote():
        ray.get(ref)


@case
def a_generator_as_argument():
    @ray.remote(num_returns="streaming")
    def f():
        yield 1

    identity.remote(f.remote())


@case
def retried_until_the_last_error():
    @ray.remote(max_retries=2, retry_exceptions=[KeyError])
    def f():
        raise KeyError("each time")

    ray.get(f.remote())


# ---- get, put, wait


@case
def get_of_something_else():
    ray.get(3)


@case
def get_of_a_list_with_something_else():
    ray.get([ray.put(1), 3])


@case
def get_times_out():
    ref = waits.remote(GATE)
    try:
        ray.get(ref, timeout=0.1)
    finally:
        open(GATE, "w").close()
        ray.get(ref)


@case
def put_of_a_reference():
    ray.put(ray.put(1))


@case
def put_of_something_that_cannot_be_pickled():
    ray.put(threading.Lock())


@case
def wait_for_something_else():
    ray.wait([3])


@case
def wait_for_a_number():
    ray.wait(3)


@case
def wait_for_the_same_twice():
    ref = ray.put(1)
    ray.wait([ref, ref])


@case
def wait_for_too_many():
    ray.wait([ray.put(1)], num_returns=2)


@case
def wait_for_none():
    ray.wait([ray.put(1)], num_returns=0)


# ---- actors


@case
def an_actor_raises():
    ray.get(alive().divides.remote(0))


@case
def an_async_actor_raises():
    ray.get(AsyncActor.remote().fails.remote())


@case
def a_constructor_raises():
    ray.get(Actor.remote(fails=True).value.remote())


@case
def a_constructor_argument_too_many():
    Actor.remote(1, 2)


@case
def an_actor_class_is_called():
    Actor()


@case
def an_actor_method_is_called():
    alive().value()


@case
def a_method_that_does_not_exist():
    alive().valeu.remote()


@case
def a_method_argument_too_many():
    alive().value.remote(1, 2)


@case
def a_call_kills_the_actor():
    ray.get(alive().dies.remote())


@case
def a_call_after_kill():
    actor = alive()
    ray.kill(actor)
    while True:  # a call that overtakes the kill is answered
        ray.get(actor.value.remote())


@case
def kill_of_something_else():
    ray.kill(3)


@case
def an_unknown_actor():
    ray.get_actor("nobody")


@case
def a_name_that_is_taken():
    first = Actor.options(name="taken").remote()
    ray.get(first.value.remote())
    Actor.options(name="taken").remote()


@case
def an_empty_name():
    Actor.options(name="").remote()


@case
def an_actor_name_that_is_no_text():
    Actor.options(name=1).remote()


@case
def a_lifetime_that_does_not_exist():
    Actor.options(lifetime="long").remote()


@case
def get_if_exists_without_a_name():
    Actor.options(get_if_exists=True).remote()


@case
def concurrency_groups_in_options():
    Actor.options(concurrency_groups={"io": 1})


@case
def retries_of_an_actor_that_are_wrong():
    Actor.options(max_task_retries=-2)


@case
def too_many_pending_calls():
    actor = Actor.options(max_pending_calls=1).remote()
    ref = actor.waits.remote(GATE + "-pending")
    try:
        for _ in range(3):
            actor.value.remote()
    finally:
        open(GATE + "-pending", "w").close()
        ray.get(ref)


@case
def a_subclass_of_an_actor_class():
    class B(Actor):
        pass


@case
def a_handle_that_is_an_argument_of_a_dead_actor():
    @ray.remote
    def calls(actor):
        while True:
            ray.get(actor.value.remote())

    actor = alive()
    ray.kill(actor)
    ray.get(calls.remote(actor))


@case
def exit_outside_an_actor():
    ray.actor.exit_actor()


@case
def an_empty_method_decorator():
    ray.method()


@case
def an_unknown_method_option():
    ray.method(num_cpus=1)


# ---- placement groups


@case
def a_group_without_bundles():
    placement_group([])


@case
def a_bundle_that_is_no_dict():
    placement_group([3])


@case
def a_bundle_without_resources():
    placement_group([{"CPU": 0}])


@case
def a_group_strategy_that_does_not_exist():
    placement_group([{"CPU": 1}], strategy="NEAR")


@case
def a_bundle_index_too_high():
    group = placement_group([{"CPU": 1}])
    try:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=3)
        identity.options(scheduling_strategy=strategy).remote(1)
    finally:
        remove_placement_group(group)


@case
def a_task_larger_than_its_bundle():
    group = placement_group([{"CPU": 1}])
    try:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        identity.options(num_cpus=2, scheduling_strategy=strategy).remote(1)
    finally:
        remove_placement_group(group)


@case
def a_task_of_a_removed_group():
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    remove_placement_group(group)
    ray.get(identity.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote(1), timeout=5)


@case
def an_actor_of_a_removed_group():
    group = placement_group([{"CPU": 1}])
    actor = Actor.options(num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
    ray.get(actor.value.remote())
    remove_placement_group(group)
    while True:
        ray.get(actor.value.remote(), timeout=5)


@case
def a_group_name_that_does_not_exist():
    ray.util.get_placement_group("nobody")


# ---- util


@case
def a_pool_without_work():
    ActorPool([alive()]).get_next()


@case
def an_empty_queue():
    queue = Queue(maxsize=1)
    try:
        queue.get_nowait()
    finally:
        queue.shutdown()


@case
def a_full_queue():
    queue = Queue(maxsize=1)
    try:
        queue.put(1)
        queue.put(2, timeout=0.1)
    finally:
        queue.shutdown()


@case
def a_negative_time_out_of_a_queue():
    queue = Queue()
    try:
        queue.get(timeout=-1)
    finally:
        queue.shutdown()


# ---- sessions


@case
def a_second_init():
    ray.init(num_cpus=1)


@case
def an_unknown_init_argument():
    ray.init(num_cpu=1, ignore_reinit_error=True)


@case
def a_runtime_env_of_the_wrong_type():
    identity.options(runtime_env=3).remote(1)


@case
def environment_variables_of_the_wrong_type():
    identity.options(runtime_env={"env_vars": {"A": 1}}).remote(1)


def bases(error: BaseException) -> list[str]:
    """Names of the exception classes that programs may name in ``except``."""
    known = {value for value in vars(exceptions).values() if isinstance(value, type)} | {Refused, Empty, Full}
    return [cls.__name__ for cls in type(error).__mro__
            if cls in known or cls.__module__ == "builtins" and cls not in (object, BaseException)]


def first_words(error: BaseException) -> str:
    """Of the text, without colours and ids.  An error of a task begins with its name, then where it ran."""
    text = re.sub(r"\b[0-9a-f]{16,}\b", "ID", re.sub(r"\x1b\[\d+m", "", str(error)))
    if isinstance(error, exceptions.RayTaskError):
        return text.removeprefix("ray::").partition(" (pid=")[0]
    return " ".join(text.split()[:WORDS])


def main(names: list[str]) -> None:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    for function in CASES:
        if names and function.__name__ not in names:
            continue
        try:
            function()
        except Exception as error:
            print(f"{function.__name__}: {type(error).__name__} [{' '.join(bases(error))}] {first_words(error)}")
        else:
            print(f"{function.__name__}: nothing")
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
