"""Generators that stream their results, and references under asyncio."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


@ray.remote(num_returns="streaming")
def count(n):
    for i in range(n):  # noqa: UP028  (Ray drives the inner iterator of a yield from with send)
        yield i


def test_a_streaming_task_yields_references_in_order():
    assert [ray.get(ref) for ref in count.remote(100)] == list(range(100))


def test_a_generator_function_streams_by_default():
    @ray.remote
    def default():
        yield 1
        yield 2

    assert [ray.get(ref) for ref in default.remote()] == [1, 2]


def test_items_arrive_before_the_generator_ends(gate):
    @ray.remote(num_returns="streaming")
    def slow(gate):
        yield "first"
        gate.wait()
        yield "second"

    stream = slow.remote(gate)
    assert ray.get(next(stream)) == "first"
    gate.open()
    assert ray.get(next(stream)) == "second"
    with pytest.raises(StopIteration):
        next(stream)


def test_large_items_stream_through_the_store():
    @ray.remote(num_returns="streaming")
    def blocks():
        for i in range(20):
            yield np.full(200_000, i)

    assert [int(ray.get(ref)[0]) for ref in blocks.remote()] == list(range(20))


def test_an_exception_in_a_generator_is_the_last_item():
    @ray.remote(num_returns="streaming")
    def fail():
        yield 1
        raise ValueError("half way")

    stream = fail.remote()
    assert ray.get(next(stream)) == 1
    with pytest.raises(ValueError, match="half way"):
        ray.get(next(stream))
    with pytest.raises(StopIteration):
        next(stream)


def test_back_pressure_bounds_how_far_the_generator_runs_ahead(tmp_path):
    @ray.remote(num_returns="streaming", _generator_backpressure_num_objects=3)
    def ahead():
        for i in range(20):
            (tmp_path / str(i)).touch()
            yield i

    stream = ahead.remote()
    until(lambda: len(os.listdir(tmp_path)) >= 3, "the generator starts")
    ray.wait([ray.put(1)])
    assert len(os.listdir(tmp_path)) <= 5
    assert [ray.get(ref) for ref in stream] == list(range(20))


def test_actor_methods_stream_too():
    @ray.remote
    class Counter:
        def count(self, n):
            for i in range(n):
                yield i * 10

    counter = Counter.remote()
    stream = counter.count.options(num_returns="streaming").remote(5)
    assert [ray.get(ref) for ref in stream] == [0, 10, 20, 30, 40]


def test_async_generator_methods_stream():
    @ray.remote
    class Counter:
        async def count(self, n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    stream = Counter.remote().count.options(num_returns="streaming").remote(5)
    assert [ray.get(ref) for ref in stream] == list(range(5))


def test_async_iteration_over_a_stream():
    async def collect():
        return [await ref async for ref in count.remote(10)]

    assert asyncio.run(collect()) == list(range(10))


@pytest.mark.filterwarnings("ignore:num_returns:DeprecationWarning")
def test_dynamic_returns_are_a_generator_of_references():
    @ray.remote(num_returns="dynamic")
    def some(n):
        yield from range(n)

    assert [ray.get(ref) for ref in ray.get(some.remote(5))] == list(range(5))


def test_a_stream_can_be_dropped_half_way():
    stream = count.remote(1000)
    assert ray.get(next(stream)) == 0
    del stream
    assert [ray.get(ref) for ref in count.remote(3)] == [0, 1, 2]


def test_await_of_references_and_gather():
    @ray.remote
    def square(x):
        return x * x

    async def main():
        one = await square.remote(3)
        many = await asyncio.gather(*[square.remote(i) for i in range(50)])
        return one, many

    assert asyncio.run(main()) == (9, [i * i for i in range(50)])


def test_await_raises_the_tasks_error():
    @ray.remote
    def fail():
        raise ValueError("awaited")

    async def main():
        await fail.remote()

    with pytest.raises(ValueError, match="awaited"):
        asyncio.run(main())


def test_asyncio_wait_for_times_out_and_the_reference_stays_good(gate):
    @ray.remote
    def hold(gate):
        gate.wait()
        return "done"

    async def main():
        ref = hold.remote(gate)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref.as_future() if hasattr(ref, "as_future") else ref, 0.05)
        gate.open()
        return await ref

    assert asyncio.run(main()) == "done"


def test_blocking_get_works_inside_a_running_event_loop():
    @ray.remote
    def one():
        return 1

    async def main():
        return ray.get(one.remote())

    assert asyncio.run(main()) == 1


def test_async_actor_methods_await_references():
    @ray.remote
    def square(x):
        return x * x

    @ray.remote
    class Caller:
        async def call(self, x):
            return await square.remote(x)

    caller = Caller.remote()
    assert ray.get([caller.call.remote(i) for i in range(20)]) == [i * i for i in range(20)]


def test_a_finished_stream_of_a_crashed_worker_ends_in_an_error():
    @ray.remote(num_returns="streaming", max_retries=0)
    def crash():
        yield 1
        os._exit(1)

    stream = crash.remote()
    with pytest.raises(exceptions.WorkerCrashedError):
        for ref in stream:
            ray.get(ref)


def test_an_event_loop_closed_while_coroutines_await_references_does_no_harm(gate):
    @ray.remote
    def held(gate, i):
        gate.wait()
        return i

    @ray.remote(num_returns="streaming")
    def items(gate):
        gate.wait()
        yield 1

    async def value(ref):
        return await ref

    async def first(generator):
        return await anext(generator)

    refs = [held.remote(gate, i) for i in range(2)]
    stream = items.remote(gate)
    loop = asyncio.new_event_loop()
    abandoned = [loop.create_task(value(ref)) for ref in refs] + [loop.create_task(first(stream))]
    loop.call_soon(loop.stop)
    loop.run_forever()
    gate.wait_arrived(3)
    loop.close()
    for task in abandoned:
        task._log_destroy_pending = False  # asyncio's own complaint, of no interest here
    gate.open()
    assert ray.get(refs, timeout=30) == [0, 1]
    assert ray.get(next(stream), timeout=30) == 1
