"""Local mode gives what a session gives: each program here runs in both."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading

import pytest

from tests.e2e.target import exceptions, ray

pytestmark = pytest.mark.zray_only


@pytest.fixture(scope="module", params=["session", "local"], autouse=True)
def _mode(request, session_root):
    ray.init(num_cpus=4, local_mode=request.param == "local")
    yield
    ray.shutdown()


@ray.remote
class Async:
    def __init__(self):
        self.event = asyncio.Event()
        self.started = 0

    async def double(self, x):
        await asyncio.sleep(0.001)
        return 2 * x

    async def ask(self, other):
        return await other.double.remote(4) + ray.get(other.double.remote(1))

    async def wait(self):
        self.started += 1
        await self.event.wait()
        return "sent"

    async def send(self):
        self.event.set()

    async def waiting(self):
        return self.started

    async def items(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def fail(self):
        raise KeyError("lost")

    @ray.method(num_returns=2)
    async def both(self):
        return 1, 2

    async def leave(self, how):
        if how == "sys.exit":
            sys.exit(3)
        ray.actor.exit_actor()

    async def variable(self):
        await asyncio.sleep(0)
        return os.environ.get("Q")


def test_async_calls_inside_a_running_loop_interleave():
    actor = Async.remote()

    async def main():
        waiting = actor.wait.remote()
        doubled = await asyncio.gather(*[actor.double.remote(i) for i in range(5)])
        while not await actor.waiting.remote():
            await asyncio.sleep(0.001)
        await actor.send.remote()
        return doubled, await waiting

    assert asyncio.run(main()) == ([0, 2, 4, 6, 8], "sent")


def test_a_call_that_waits_is_not_ready_until_another_ends_it():
    actor = Async.remote()
    waiting = actor.wait.remote()
    assert ray.wait([waiting, actor.double.remote(1)], timeout=10)[1] == [waiting]
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(waiting, timeout=0.01)
    passed_on = actor.double.remote(waiting)
    ray.get(actor.send.remote())
    assert ray.get([waiting, passed_on], timeout=10) == ["sent", "sentsent"]
    assert waiting.future().result(timeout=10) == "sent"


def test_actors_await_each_other():
    assert ray.get(Async.remote().ask.remote(Async.remote())) == 10


def test_errors_several_returns_and_streams_of_async_methods():
    actor = Async.remote()
    with pytest.raises(KeyError) as caught:
        ray.get(actor.fail.remote())
    assert isinstance(caught.value, exceptions.RayTaskError)
    assert ray.get(actor.both.remote()) == [1, 2]
    assert [ray.get(ref) for ref in actor.items.remote(3)] == [0, 1, 2]

    async def collect():
        return [await ref async for ref in actor.items.remote(3)]

    assert asyncio.run(collect()) == [0, 1, 2]


def test_a_cancelled_call_of_an_async_actor_says_so():
    actor = Async.remote()
    waiting = actor.wait.remote()
    while not ray.get(actor.waiting.remote()):
        pass
    ray.cancel(waiting)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(waiting, timeout=10)
    assert ray.get(actor.double.remote(1)) == 2


@pytest.mark.parametrize("how", ["sys.exit", "exit_actor"])
def test_an_actor_that_exits_is_dead(how):
    actor = Async.remote()
    for call in (lambda: actor.leave.remote(how), lambda: actor.double.remote(1)):
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(call(), timeout=30)


def test_a_task_that_exits_is_tried_again_and_then_a_crash(tmp_path):
    @ray.remote(max_retries=1)
    def leave():
        (tmp_path / f"{len(list(tmp_path.iterdir()))}").touch()
        sys.exit(0)

    with pytest.raises(exceptions.WorkerCrashedError, match="exited with code 0"):
        ray.get(leave.remote(), timeout=30)
    assert len(list(tmp_path.iterdir())) == 2


def test_arguments_results_and_puts_are_copies():
    items = [1]
    stored = ray.put(items)
    items.append(2)

    @ray.remote
    def append(to):
        to.append(3)
        return to

    result = append.remote(items)
    ray.get(result).append(9)
    assert (ray.get(stored), items, ray.get(result)) == ([1], [1, 2], [1, 2, 3])
    assert ray.get(append.remote(stored)) == [1, 3] and ray.get(stored) == [1]

    @ray.remote
    class Keeper:
        def __init__(self, kept):
            self.kept = kept

        def keep(self, more):
            self.kept += more
            return self.kept

    keeper = Keeper.remote(items)
    returned = ray.get(keeper.keep.remote([4]))
    returned.append(5)
    assert ray.get(keeper.keep.remote([])) == [1, 2, 4] and items == [1, 2]


def test_references_inside_values_live_as_long_as_the_value():
    @ray.remote
    def make():
        return [ray.put(7)]

    @ray.remote
    def read(refs):
        return ray.get(refs[0])

    assert ray.get(read.remote(make.remote())) == 7
    assert ray.get(ray.get(ray.put([ray.put(8)]))[0]) == 8


def test_environment_variables_hold_for_the_task_or_actor_alone():
    @ray.remote(runtime_env={"env_vars": {"Q": "task"}})
    def variable():
        return os.environ.get("Q")

    @ray.remote(runtime_env={"env_vars": {"Q": "actor"}})
    class Sync:
        def __init__(self):
            self.first = os.environ.get("Q")

        def variable(self):
            return self.first, os.environ.get("Q")

    other = Async.options(runtime_env={"env_vars": {"Q": "async"}}).remote()
    assert ray.get([variable.remote(), Sync.remote().variable.remote(), other.variable.remote()]) == [
        "task", ("actor", "actor"), "async"]
    assert "Q" not in os.environ


def test_generators_retries_and_the_context():
    @ray.remote
    def count(n):
        yield from range(n)
        raise ValueError("end")

    refs = list(count.remote(2))
    assert ray.get(refs[:2]) == [0, 1]
    with pytest.raises(ValueError, match="end"):
        ray.get(refs[2])

    @ray.remote
    class Tries:
        def __init__(self):
            self.tries = 0

        @ray.method(max_task_retries=2, retry_exceptions=[KeyError])
        def work(self):
            self.tries += 1
            if self.tries < 3:
                raise KeyError(self.tries)
            return self.tries, ray.get_runtime_context().get_actor_id()

    tries = Tries.remote()
    assert ray.get(tries.work.remote()) == (3, tries._actor_id.hex())


def test_errors_and_names_read_the_same():
    @ray.remote
    def divide():
        return 1 / 0

    @ray.remote
    def take(x):
        return x

    @ray.remote
    class Plain:
        def __init__(self, bad=False):
            if bad:
                raise ValueError("no start")

        def names(self):
            here = ray.get_runtime_context()
            return here.get_task_name(), here.get_task_function_name()

        def fail(self):
            raise KeyError("x")

        def __repr__(self):
            return "Plain()"

    plain = Plain.remote()
    assert ray.get(plain.names.remote()) == ("Plain.names", f"{__name__}.Plain.names")
    place, of_actor = r"\(pid=\d+, ip=[0-9.]+", r", actor_id=[0-9a-f]{32}"
    note = "\n  At least one of the input arguments for this task could not be computed:"
    died = "The actor died because of an error raised in its creation task, "
    for ref, kind, text in [
        (take.remote(divide.remote()), ZeroDivisionError,
         rf"ray::take\(\) {place}\){note}.*\nray.exceptions.RayTaskError: ray::divide\(\) {place}.*in divide\n"),
        (plain.fail.remote(), KeyError,
         rf"ray::Plain.fail\(\) {place}{of_actor}, repr=Plain\(\)\)\n  File .* in fail\n.*\nKeyError: 'x'$"),
        (Plain.remote(True).fail.remote(), exceptions.ActorDiedError,
         rf"{died}ray::Plain.__init__\(\) {place}{of_actor}, repr=Plain\(\)\)\n  File .*\nValueError: no start$"),
        (Plain.remote(divide.remote()).fail.remote(), exceptions.ActorDiedError,
         rf"{died}ray::Plain.__init__\(\) {place}{of_actor}\){note}.*\nZeroDivisionError: division by zero$"),
    ]:
        with pytest.raises(kind) as caught:
            ray.get(ref, timeout=30)
        assert re.match(text, str(caught.value), re.DOTALL), str(caught.value)
    named = Plain.options(name="taken").remote()
    with pytest.raises(exceptions.ActorAlreadyExistsError, match="The name taken .* is already taken"):
        Plain.options(name="taken").remote()
    with pytest.raises(TypeError, match="Could not serialize the put value <"):
        ray.put(threading.Lock())
    assert ray.get(named.names.remote())
