"""util.Executor: concurrent.futures on tasks."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent import futures

import pytest

import zray as ray
from zray.util import Executor
from zray.util.multiprocessing import Pool

pytestmark = pytest.mark.zray_only


@pytest.fixture
def executor(cluster):
    with Executor(max_workers=2) as made:
        yield made


def _remember(word):
    os.environ["EXECUTOR_WORD"] = word


def _fail(*_):
    raise ValueError("no")


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def _refuse():
    raise Refused(7, "refused")


def test_results_and_errors_are_those_of_the_function(executor):
    assert executor.submit(pow, 2, exp=5).result(timeout=60) == 32
    assert executor.submit(lambda x: x + 1, ray.put(1)).result() == 2
    failed = executor.submit(_refuse)
    with pytest.raises(Refused) as caught:
        failed.result()
    assert type(caught.value) is Refused and caught.value.code == 7 and failed.exception() is caught.value
    assert "_refuse" in str(caught.value.__cause__)
    with pytest.raises(TypeError):
        executor.submit(print, threading.Lock()).result(timeout=60)
    with pytest.raises(TypeError, match="takes a callable"):
        executor.submit(3)


def test_map_is_ordered_and_takes_chunks(executor, gate):
    assert list(executor.map(pow, [2, 3, 4], [3, 2, 1])) == [8, 9, 4]
    assert list(executor.map(abs, range(-50, 0), chunksize=7)) == list(range(50, 0, -1))
    assert list(executor.map(abs, [])) == list(executor.map(abs, [], chunksize=5)) == []
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(abs, [1], chunksize=0)
    with pytest.raises(futures.TimeoutError):
        list(executor.map(lambda _: gate.wait(), [1], timeout=0.05))
    gate.open()


def test_no_more_than_max_workers_run_and_what_waits_can_be_cancelled(executor, gate):
    running = [executor.submit(gate.wait) for _ in range(2)]
    gate.wait_arrived(2)
    waiting = [executor.submit(gate.arrive) for _ in range(3)]
    assert all(future.running() for future in running) and not running[0].cancel()
    with pytest.raises(futures.TimeoutError):
        waiting[0].result(timeout=0.1)
    assert waiting[1].cancel() and waiting[1].cancelled() and gate.arrived == 2
    gate.open()
    assert waiting[2].result(timeout=60) is None
    done, left = futures.wait([*running, *waiting], timeout=60)
    assert len(done) == 5 and not left and gate.arrived == 4
    with pytest.raises(futures.CancelledError):
        waiting[1].result()
    assert set(futures.as_completed(done)) == done


def test_shutdown_cancels_or_finishes_what_waits(cluster, gate):
    executor = Executor(1)
    running = executor.submit(gate.wait)
    waiting = executor.submit(abs, -1)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    gate.open()
    executor.shutdown()
    assert running.done() and waiting.result() == 1
    other = Executor(1)
    first, second = other.submit(abs, -1), other.submit(abs, -2)
    other.shutdown(cancel_futures=True)
    assert first.result() == 1 and (second.cancelled() or second.result() == 2)


def test_a_callback_that_blocks_stops_no_other_future(cluster):
    executor, entered, opened, shut = Executor(1), threading.Event(), threading.Event(), threading.Event()

    def block(_):
        entered.set()
        opened.wait(60)

    def shut_down(_):
        executor.shutdown()
        shut.set()

    ray.remote(abs).remote(-1).future().add_done_callback(block)
    assert entered.wait(60)
    first = executor.submit(abs, -2)
    first.add_done_callback(block)
    last = executor.submit(abs, -3)
    last.add_done_callback(shut_down)
    assert first.result(60) == 2 and last.result(60) == 3 and shut.wait(60)
    assert ray.remote(abs).remote(-4).future().result(60) == 4
    with Pool(1) as pool:
        assert pool.map(abs, [-5]) == [5]
    opened.set()


def test_asyncio_runs_in_it(executor):
    async def run():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, pow, n, 2) for n in range(5)))

    assert asyncio.run(run()) == [0, 1, 4, 9, 16]


def test_each_process_is_initialized_once(cluster):
    with Executor(initializer=_remember, initargs=("here",)) as executor:
        assert set(executor.map(lambda _: os.environ["EXECUTOR_WORD"], range(8))) == {"here"}
    with Executor(initializer=_fail) as broken:
        with pytest.raises(futures.BrokenExecutor, match="initializer: ValueError: no"):
            broken.submit(abs, 1).result(timeout=60)
        with pytest.raises(futures.BrokenExecutor):
            broken.submit(abs, 1)
    for wrong, error in ((0, ValueError), ("2", TypeError)):
        with pytest.raises(error, match="max_workers"):
            Executor(wrong)


def test_tasks_that_wait_for_tasks_do_not_block_a_full_machine(cluster):
    @ray.remote(num_cpus=4)
    def outer():
        with Executor(2, ray_remote_args={"num_cpus": 4}) as inner:
            return [future.result() for future in [inner.submit(abs, -n) for n in range(3)]]

    assert ray.get(outer.remote(), timeout=60) == [0, 1, 2]


def test_an_executor_ends_with_its_session_and_starts_no_other(fresh, gate):
    ray.init(num_cpus=2)
    executor = Executor(2)
    made = [executor.submit(gate.wait) for _ in range(5)]
    gate.wait_arrived(2)
    mapped = executor.map(lambda _: gate.wait(), range(50))
    ray.shutdown()
    with pytest.raises(futures.BrokenExecutor, match="session of this executor has ended"):
        next(mapped)
    done, left = futures.wait(made, timeout=60)
    assert len(done) == 5 and not left
    for future in made:
        with pytest.raises(futures.BrokenExecutor, match="session of this executor has ended"):
            future.result(timeout=60)
    assert not ray.is_initialized()
    ray.init(num_cpus=2)
    with pytest.raises(futures.BrokenExecutor, match="Make a new Executor"):
        executor.submit(abs, 1)
    executor.cancel_all()
    executor.shutdown()


def test_a_map_of_many_short_calls_keeps_order_errors_and_arguments(cluster):
    with Executor() as executor:
        assert list(executor.map(abs, range(-5000, 0))) == list(range(5000, 0, -1))
        results = executor.map(lambda n: 8 // n, [1, 2, 0, 4])
        assert [next(results), next(results)] == [8, 4]
        with pytest.raises(ZeroDivisionError) as caught:
            next(results)
        assert "ray::" in str(caught.value.__cause__) and next(results, "end") == "end"
        assert list(executor.map(pow, map(ray.put, range(3)), [2, 2, 2])) == [0, 1, 4]
        assert list(executor.map(lambda *args: args, (1, 2), "ab")) == [(1, "a"), (2, "b")]
        with pytest.raises(TypeError):
            list(executor.map(lambda lock: lock, [threading.Lock()]))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(abs, [1])


def test_items_of_a_map_that_have_not_started_are_dropped_when_it_ends(cluster, gate):
    executor = Executor()
    with pytest.raises(futures.TimeoutError):
        list(executor.map(lambda _: gate.wait(), range(500), timeout=0.5))
    waiting = executor.map(lambda _: gate.wait(), range(500))
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    with pytest.raises(futures.CancelledError):
        list(waiting)
    executor.shutdown()
    assert gate.arrived < 200


def test_shutdown_waits_for_a_map_that_nobody_reads(cluster, gate):
    executor = Executor()
    executor.map(lambda _: gate.arrive(), range(50))
    executor.shutdown()
    assert gate.arrived == 50


def test_a_future_that_its_user_ends_stops_no_other(executor, gate):
    mine = executor.submit(gate.wait)
    ref = ray.remote(gate.wait).remote()
    theirs = ref.future()
    mine.set_result("mine")
    theirs.set_result("mine")
    gate.open()
    ray.get(ref)
    assert executor.submit(abs, -3).result() == 3 and mine.result() == theirs.result() == "mine"


@pytest.mark.parametrize("way", ["submit", "map"])
def test_ctrl_c_in_a_with_block_interrupts_what_runs_and_drops_the_rest(cluster, gate, way):
    with pytest.raises(KeyboardInterrupt), Executor() as executor:
        if way == "submit":
            made = [executor.submit(gate.wait) for _ in range(20)]
        else:
            results = executor.map(lambda _: gate.wait(), range(20))
        gate.wait_arrived(1)
        raise KeyboardInterrupt
    if way == "submit":
        assert all(future.done() for future in made)
    else:
        with pytest.raises((futures.CancelledError, ray.exceptions.TaskCancelledError)):
            list(results)
