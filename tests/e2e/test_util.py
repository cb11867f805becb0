"""Queue, ActorPool, named actors, the runtime context."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal

import pytest

from tests.e2e.target import IS_ZRAY, TARGET, exceptions, ray, until

queues = importlib.import_module(f"{TARGET}.util.queue")


@pytest.fixture
def queue(cluster):
    made = queues.Queue(maxsize=3)
    yield made
    made.shutdown(force=True)


def test_a_queue_is_first_in_first_out_and_bounded(queue):
    for n in range(3):
        queue.put(n)
    assert queue.full() and queue.size() == queue.qsize() == len(queue) == 3
    with pytest.raises(queues.Full):
        queue.put_nowait(3)
    with pytest.raises(queues.Full):
        queue.put(3, timeout=0.01)
    assert [queue.get() for _ in range(3)] == [0, 1, 2]
    assert queue.empty()
    with pytest.raises(queues.Empty):
        queue.get_nowait()
    with pytest.raises(queues.Empty):
        queue.get(timeout=0.01)
    with pytest.raises(ValueError):
        queue.get(timeout=-1)
    import queue as standard

    assert issubclass(queues.Empty, standard.Empty) and issubclass(queues.Full, standard.Full)


def test_batches_are_all_or_nothing(queue):
    queue.put_nowait_batch([1, 2])
    with pytest.raises(queues.Full):
        queue.put_nowait_batch([3, 4])
    with pytest.raises(queues.Empty):
        queue.get_nowait_batch(3)
    assert queue.get_nowait_batch(2) == [1, 2]
    with pytest.raises(TypeError):
        queue.get_nowait_batch("2")
    with pytest.raises(TypeError):
        queue.put_nowait_batch(1)


def test_waiting_getters_and_putters_are_woken(queue):
    @ray.remote(num_cpus=0)
    def consume(queue, count):
        return [queue.get(timeout=30) for _ in range(count)]

    @ray.remote(num_cpus=0)
    def produce(queue, items):
        for item in items:
            queue.put(item)

    takers = [consume.remote(queue, 10) for _ in range(2)]
    makers = [produce.remote(queue, range(start, start + 10)) for start in (0, 10)]
    found = sum(ray.get(takers, timeout=60), [])
    ray.get(makers, timeout=60)
    assert sorted(found) == list(range(20)) and queue.empty()


def test_the_async_forms(queue):
    async def both():
        getting = asyncio.ensure_future(queue.get_async())
        await queue.put_async("x")
        first = await getting
        with pytest.raises(queues.Empty):
            await queue.get_async(timeout=0.01)
        with pytest.raises(queues.Empty):
            await queue.get_async(block=False)
        return first

    assert asyncio.run(both()) == "x"


def test_a_queue_ends(cluster):
    queue = queues.Queue()
    queue.put(1)
    queue.shutdown()
    with pytest.raises(exceptions.RayActorError):
        queue.size()


def test_an_actor_pool_orders_or_does_not(cluster):
    @ray.remote(num_cpus=0)
    class Doubler:
        def double(self, x):
            if x == 13:
                raise ValueError("unlucky")
            return 2 * x

    pool = ray.util.ActorPool([Doubler.remote() for _ in range(2)])
    assert list(pool.map(lambda actor, x: actor.double.remote(x), range(6))) == [0, 2, 4, 6, 8, 10]
    assert sorted(pool.map_unordered(lambda actor, x: actor.double.remote(x), range(6))) == [0, 2, 4, 6, 8, 10]
    pool.submit(lambda actor, x: actor.double.remote(x), 13)
    pool.submit(lambda actor, x: actor.double.remote(x), 1)
    assert not pool.has_free() and pool.pop_idle() is None
    with pytest.raises(ValueError, match="unlucky"):
        pool.get_next()
    assert pool.has_next() and pool.get_next(timeout=30) == 2 and not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()
    idle = pool.pop_idle()
    assert idle is not None
    pool.push(idle)
    with pytest.raises(ValueError):
        pool.push(idle)


def test_named_actors_are_listed_by_namespace(cluster):
    @ray.remote(num_cpus=0)
    class Named:
        def ready(self):
            return ray.get_runtime_context().namespace, ray.util.list_named_actors()

    here = Named.options(name="here").remote()
    there = Named.options(name="there", namespace="elsewhere").remote()
    namespace, seen = ray.get(here.ready.remote())
    assert namespace == ray.get_runtime_context().namespace and "here" in seen
    ray.get(there.ready.remote())
    assert "there" not in ray.util.list_named_actors()
    everywhere = ray.util.list_named_actors(all_namespaces=True)
    assert {"name": "there", "namespace": "elsewhere"} in everywhere
    assert {"name": "here", "namespace": namespace} in everywhere
    assert ray.get(ray.get_actor("there", namespace="elsewhere").ready.remote())


def test_an_actor_finds_itself_and_knows_that_it_was_restarted(cluster):
    @ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
    class Self:
        def value(self):
            return 7

        def about(self):
            context = ray.get_runtime_context()
            return (os.getpid(), context.was_current_actor_reconstructed, context.current_actor, context.get_actor_id(),
                    context.get_actor_name())

    actor = Self.options(name="itself").remote()
    pid, again, handle, actor_id, name = ray.get(actor.about.remote())
    assert not again and name == "itself" and ray.get(handle.value.remote()) == 7
    os.kill(pid, signal.SIGKILL)
    new_pid, again, handle, same_id, _ = until(
        lambda: found if (found := ray.get(actor.about.remote()))[0] != pid else None)
    assert again and same_id == actor_id and ray.get(handle.value.remote()) == 7


@pytest.mark.skipif(not IS_ZRAY, reason="names of zray's ids")
def test_the_runtime_context_of_a_task(cluster):
    @ray.remote(num_cpus=2, name="who")
    def who():
        context = ray.get_runtime_context()
        return (context.get(), context.get_task_name(), context.get_assigned_resources(), context.get_accelerator_ids(),
                context.is_canceled(), context.get_node_labels(), context.get_task_id(), context.get_actor_id())

    about, name, resources, gpus, cancelled, labels, task_id, actor_id = ray.get(who.remote())
    mine = ray.get_runtime_context()
    assert about["job_id"].hex() == mine.get_job_id() and about["node_id"].hex() == mine.get_node_id()
    assert about["task_id"].hex() == task_id and actor_id is None and not cancelled and isinstance(labels, dict)
    assert name == "who" and resources == {"CPU": 2} and set(map(tuple, gpus.values())) == {()} and "GPU" in gpus
    assert mine.get_task_id() is None and mine.get_actor_id() is None and mine.get_temp_dir()
