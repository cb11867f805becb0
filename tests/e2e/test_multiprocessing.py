"""util.multiprocessing: the Pool, its results and iterators, and its queues."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
from collections import Counter

import pytest

from tests.e2e.target import TARGET, Gate, exceptions, ray, until

mp = importlib.import_module(f"{TARGET}.util.multiprocessing")
PROCESSES = 3


@pytest.fixture(scope="module")
def shared(module_footprint):
    if not ray.is_initialized():
        ray.init(num_cpus=4)
    pool = mp.Pool(PROCESSES)
    yield pool
    pool.terminate()
    pool.join()


@pytest.fixture
def pool(shared, cluster):
    return shared


def _remember(key, value):
    os.environ[key] = value


def _divide(x):
    return 12 // x


def test_the_calls_of_the_standard_library(pool):
    assert pool.apply(int, ("11",), {"base": 3}) == 4
    assert pool.map(abs, [-1, -2, 3]) == [1, 2, 3] == pool.map(abs, iter([-1, -2, 3]), chunksize=2)
    assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert list(pool.imap(abs, range(-10, 0), chunksize=3)) == list(range(10, 0, -1))
    assert sorted(pool.imap_unordered(abs, (-n for n in range(50)))) == list(range(50))
    assert pool.map(abs, []) == [] and list(pool.imap(abs, [])) == []
    offset = 5
    assert pool.map_async(lambda x: x + offset, range(4)).get(timeout=60) == [5, 6, 7, 8]
    assert pool.starmap_async(lambda x, y: x - y, [(3, 1)]).get(timeout=60) == [2]
    assert pool.apply_async(lambda: None).get(timeout=60) is None


def test_references_among_the_arguments_are_passed_as_references(pool):
    ref = ray.put([7])
    assert pool.apply(lambda found: ray.get(found), (ref,)) == [7]
    assert pool.map(lambda found: ray.get(found), [ref, ref]) == [[7], [7]]
    assert pool.map(lambda x: x + ray.get(ref)[0], [1]) == [8]


def test_work_is_spread_evenly(pool):
    pids = Counter(pool.map(lambda _: os.getpid(), range(120)))
    assert len(pids) == PROCESSES and min(pids.values()) >= 30


def test_errors_are_those_of_the_function(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(_divide, [1, 0, 2])
    assert type(caught.value) is ZeroDivisionError
    with pytest.raises(KeyError, match="lost"):
        pool.apply({}.__getitem__, ("lost",))
    failed = pool.apply_async(_divide, (0,))
    failed.wait(60)
    assert failed.ready() and not failed.successful()
    for call in (lambda: pool.map(abs, 3), lambda: pool.imap(abs, 3), lambda: pool.imap_unordered(abs, 3)):
        with pytest.raises(TypeError, match="'int' object is not iterable"):
            call()
    with pytest.raises(TypeError):
        pool.starmap(abs, [1, 2])


@pytest.mark.zray_only
def test_an_error_shows_where_it_was_raised(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(_divide, [0])
    assert "in _divide" in str(caught.value.__cause__)
    with pytest.raises(TypeError, match="is not callable"):
        pool.apply("abs")
    with pytest.raises(ValueError, match="positive int"):
        pool.map(abs, [1], chunksize=0)


@pytest.mark.zray_only
def test_what_cannot_be_pickled_fails_alone(pool):
    results = [pool.apply_async(make) for make in (int, threading.Lock, int)]
    assert results[0].get(60) == results[2].get(60) == 0
    with pytest.raises(TypeError):
        results[1].get(60)
    assert pool.map(abs, [1] * 40, chunksize=1) == [1] * 40  # short: the next ones share a call
    several = pool.imap(lambda n: threading.Lock() if n == 20 else n, range(40))
    found = list(several)
    assert isinstance(found[20], TypeError) and [n for n in range(40) if found[n] == n] == [*range(20), *range(21, 40)]

    class Odd(Exception):
        def __reduce__(self):
            raise TypeError("stays here")

    def fail():
        raise Odd("odd")

    with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="odd"):
        pool.apply(fail)


def test_callbacks_are_called_once(pool):
    done, failed = [], []
    pool.map_async(abs, [-1, -2], callback=done.append, error_callback=failed.append).get(60)
    until(lambda: done == [[1, 2]] and not failed)
    for _ in range(3):
        pool.map_async(_divide, [0, 1, 0], callback=done.append, error_callback=failed.append)
    until(lambda: len(failed) == 3)
    causes = [getattr(error, "underlying", error) for error in failed]  # Ray wraps it
    assert all(isinstance(error, ZeroDivisionError) for error in causes) and len(done) == 1


def test_results_that_are_not_ready(pool, gate):
    result = pool.apply_async(gate.wait)
    gate.wait_arrived()
    assert not result.ready()
    result.wait(0.01)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(mp.TimeoutError):
        result.get(timeout=0.01)
    gate.open()
    assert result.get(60) is None and result.successful() and result.ready()
    assert mp.TimeoutError is multiprocessing.TimeoutError


def test_an_iterator_times_out_and_goes_on(pool, gate):
    results = pool.imap(lambda n: gate.wait() if n == 1 else n, [0, 1, 2])
    assert next(results) == 0
    gate.wait_arrived()
    with pytest.raises(mp.TimeoutError):
        results.next(timeout=0.01)
    gate.open()
    assert list(results) == [None, 2]


@pytest.mark.zray_only
def test_a_slow_item_does_not_hold_up_the_others(pool, gate):
    results = pool.imap_unordered(lambda n: gate.wait() if n == 0 else n, iter(range(40)))
    assert sorted(results.next(timeout=60) for _ in range(39)) == list(range(1, 40))
    gate.open()
    assert list(results) == [None]


def test_an_exception_is_an_item_of_an_iterator(pool):
    found = list(pool.imap(_divide, [1, 0, 3]))
    assert [found[0], found[2]] == [12, 4] and isinstance(found[1], Exception)


@pytest.mark.zray_only
def test_an_endless_iterator_is_taken_as_far_as_it_is_used(pool):
    taken = []

    def numbers():
        while True:
            taken.append(len(taken))
            yield len(taken)

    results = pool.imap(abs, numbers())
    assert [next(results) for _ in range(5)] == [1, 2, 3, 4, 5] and len(taken) < 2000

    def breaks():
        yield 1
        raise KeyError("of the items")

    results = pool.imap(abs, breaks())
    assert next(results) == 1
    with pytest.raises(KeyError, match="of the items"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.zray_only
def test_a_process_that_dies_is_replaced(pool):
    with pytest.raises(exceptions.ActorDiedError):
        pool.apply(os._exit, (1,))
    until(lambda: len(set(pool.map(lambda _: os.getpid(), range(30), chunksize=1))) == PROCESSES)


def test_pools_inside_tasks_and_pools(pool):
    @ray.remote
    def inside():
        with mp.Pool(2) as inner:
            return inner.map(abs, [-1, -2, -3])

    def nested(n):
        with mp.Pool(1) as inner:
            return inner.apply(abs, (n,))

    assert ray.get(inside.remote(), timeout=60) == [1, 2, 3]
    assert pool.map(nested, [-1, -2]) == [1, 2]


def test_each_process_is_initialized_and_replaced_after_its_share(cluster):
    pool = mp.Pool(2, initializer=_remember, initargs=("POOL_WORD", "here"), maxtasksperchild=2)
    pids = pool.map(lambda _: (os.environ["POOL_WORD"], os.getpid()), range(8), chunksize=1)
    counts = Counter(pid for _, pid in pids)
    assert {word for word, _ in pids} == {"here"} and len(counts) >= 4 and max(counts.values()) <= 2
    pool.close()
    pool.join()
    with pytest.raises(exceptions.RayActorError):
        mp.Pool(1, initializer=_divide, initargs=(0,)).apply(abs, (1,))


def test_a_closed_pool_finishes_and_takes_nothing_more(cluster, tmp_path):
    gate = Gate(tmp_path)
    pool = mp.Pool(2)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    waiting = [pool.apply_async(gate.wait) for _ in range(4)]
    pool.close()
    for refused in (lambda: pool.map(abs, [1]), lambda: pool.apply(abs, (1,)), lambda: pool.imap(abs, [1]),
                    pool.__enter__):
        with pytest.raises(ValueError, match="Pool not running"):
            refused()
    gate.open()
    pool.join()
    assert [result.get(timeout=60) for result in waiting] == [None] * 4


@pytest.mark.zray_only
def test_join_draws_what_an_iterator_has_left(cluster):
    pool = mp.Pool(1)
    results = pool.imap(abs, iter(range(500)))
    pool.close()
    pool.join()
    assert list(results) == list(range(500))


def test_terminate_ends_what_runs(cluster, gate):
    with mp.Pool(1) as pool:
        running = pool.apply_async(gate.wait)
        behind = pool.apply_async(abs, (1,))
        gate.wait_arrived()
    for result in (running, behind):
        with pytest.raises(exceptions.RayError):
            result.get(timeout=60)
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.map(abs, [1])


def test_a_pool_has_no_more_processes_than_the_cluster_has_cpus(cluster):
    with pytest.raises(ValueError, match="Tried to start a pool with 99 processes on an existing ray cluster"):
        mp.Pool(99)
    with pytest.raises(ValueError, match="must be >0"):
        mp.Pool(0)
    from importlib import import_module

    assert import_module(f"{TARGET}.util.multiprocessing.pool").Pool is mp.Pool


@pytest.mark.zray_only
def test_processes_are_spread_over_nodes_in_proportion_to_cpus(monkeypatch):
    from zray.util.multiprocessing import pool as module

    def spread(count, *cpus):
        found = [{"NodeID": str(n), "Alive": True, "Resources": {"CPU": c} if c else {}} for n, c in enumerate(cpus)]
        monkeypatch.setattr(module, "nodes", lambda: found)
        return module._spread_over_nodes(count)

    assert spread(4, 8) == [] == spread(4, 8, 0)
    assert Counter(spread(12, 8, 4)) == {"0": 8, "1": 4} and set(spread(2, 8, 8)) == {"0", "1"}
    for count in range(1, 30):
        assert len(spread(count, 3, 5, 7)) == count


@pytest.mark.zray_only
def test_a_pool_that_nobody_holds_ends(cluster):
    pool = mp.Pool(1)
    pid = pool.apply(os.getpid)
    del pool
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the process of the pool ends")


@pytest.mark.zray_only
def test_a_pool_starts_a_session_with_its_processes(fresh):
    with mp.Pool(2) as pool:
        assert ray.cluster_resources()["CPU"] == 2 and pool.map(abs, [-1]) == [1]


@pytest.mark.zray_only
def test_the_queue_joins(cluster):
    queue = mp.JoinableQueue()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()

    @ray.remote(num_cpus=0)
    def consume(queue):
        found = []
        while (item := queue.get()) is not None:
            found.append(item)
            queue.task_done()
        queue.task_done()
        return found

    for item in (1, 2, None):
        queue.put(item)
    consumed = consume.remote(queue)
    queue.join()
    assert ray.get(consumed, timeout=60) == [1, 2] and queue.empty()
    queue.join()
    queue.close()
    queue.join_thread()


@pytest.mark.zray_only
def test_other_names_of_the_module(cluster):
    assert mp.cpu_count() == 4 and mp.get_context("spawn").Pool is mp.Pool
    assert issubclass(mp.TimeoutError, mp.ProcessError)
    with pytest.raises(ValueError, match="cannot find context"):
        mp.get_context("thread")
    with pytest.raises(AttributeError, match="Use an actor instead"):
        mp.Lock  # noqa: B018
    queue = mp.SimpleQueue()
    queue.put(1)
    assert queue.get() == 1 and queue.empty()



@pytest.mark.zray_only
def test_a_pool_ends_with_its_session_and_starts_no_other(fresh, gate):
    ray.init(num_cpus=2)
    pool = mp.Pool(1)
    running, waiting = [pool.apply_async(gate.wait) for _ in range(2)]
    gate.wait_arrived(1)
    ray.shutdown()
    for result in (running, waiting):
        with pytest.raises(ray.exceptions.RayError, match="session"):
            result.get(timeout=60)
    with pytest.raises(ValueError, match="session has ended"):
        pool.map(abs, [1])
    pool.close()
    pool.join()
    pool.terminate()
    assert not ray.is_initialized()
