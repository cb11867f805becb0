"""Graphs that are compiled: values, errors, deaths and the end; on real actors."""

from __future__ import annotations

import asyncio
import copy
import glob
import os
import signal
import threading
import weakref

import numpy as np
import pytest

import zray as ray
from tests.e2e.scripts import run_script
from tests.e2e.target import Gate, until
from zray.dag import DAGContext, InputNode, MultiOutputNode, loop
from zray.exceptions import (
    ActorDiedError,
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
    RayTaskError,
)

pytestmark = pytest.mark.zray_only  # Ray compiles graphs only where its own shared-memory store is built in


class NotThere(Exception):
    pass


@ray.remote(num_cpus=0)
class Stage:
    def __init__(self, add=0):
        self.added = add
        self.calls = 0

    def add(self, x, y=0):
        self.calls += 1
        return x + y + self.added

    def fail(self, x):
        if x == "bad":
            raise NotThere(x)
        return x

    def describe(self, x, **more):
        return type(x).__name__, more

    @ray.method(num_returns=2)
    def split(self, x):
        return x // 2, x - x // 2

    def scale(self, array):
        return array * 2

    def hold(self, before, gate):
        gate.wait()
        return "through"

    def pass_by(self, gates):
        gates.wait()

    def remember(self, x):
        self.seen = [*getattr(self, "seen", []), x]
        return self.seen

    def unpicklable(self, x):
        return threading.Lock()

    def where(self, x):
        context = ray.get_runtime_context()
        return context.get_actor_id(), os.getpid(), ray.get(ray.put(x))

    def count(self):
        return self.calls

    def threads(self):
        return [thread.name for thread in threading.enumerate()]

    def nothing(self, x):
        return None

    def graphs(self):
        return len(loop._parts)

    def open_files(self):
        return sorted(os.readlink(f"/proc/self/fd/{fd}").split("[")[0] for fd in os.listdir("/proc/self/fd")
                      if os.path.exists(f"/proc/self/fd/{fd}"))

    async def later(self, x):
        return x


@ray.remote(num_cpus=0)
class Plain:
    def add(self, x, y=0):
        return x + y

    def hold(self, gate):
        gate.wait()
        return "through"

    def pid(self):
        return os.getpid()

    def threads(self):
        return [thread.name for thread in threading.enumerate()]


@pytest.fixture
def compiled(cluster):
    """``compiled(graph, **options)``; all are torn down, and nothing of them may be left in the session directory."""
    made = []

    def compile_it(graph, **options):
        made.append(graph.experimental_compile(**options))
        return made[-1]

    yield compile_it
    for one in made:
        one.teardown()
    assert not glob.glob(os.path.join(ray.get_runtime_context().gcs_address, "c-*"))


@pytest.fixture
def actor(cluster):
    return Plain.remote()


def test_a_chain_and_a_fan_give_what_calls_give(compiled):
    first, second = Stage.remote(1), Stage.remote(10)
    with InputNode() as value:
        one = first.add.bind(value)
        two = second.add.bind(one, y=one)
        graph = compiled(MultiOutputNode([two, one, first.add.bind(two, one)]))
    for x in range(5):
        one, two = x + 1, 2 * (x + 1) + 10
        assert ray.get(graph.execute(x)) == [two, one, two + one + 1]


def test_inputs_by_position_name_and_whole(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(MultiOutputNode([stage.add.bind(value[0], value.y), stage.add.bind(value[1], y=value["y"])]))
    assert ray.get(graph.execute(1, 2, y=10)) == [11, 12]
    for args, kwargs, words in [((1,), {"y": 1}, "with 2 positional args, got 1"), ((1, 2), {}, "with kwarg `y`"),
                                ((1, 2), {"y": 1, "z": 2}, r"does not use the kwargs \['z'\]")]:
        with pytest.raises(ValueError, match=words):
            graph.execute(*args, **kwargs)
    with InputNode() as value:
        whole = compiled(stage.describe.bind(value, const=ray.put(7)))
    assert ray.get(whole.execute([1])) == ("list", {"const": 7})


def test_several_results_of_a_method(compiled):
    stage, other = Stage.remote(), Stage.remote()
    with InputNode() as value:
        low, high = stage.split.bind(value)
        graph = compiled(MultiOutputNode([other.add.bind(high, low), low]))
    assert ray.get(graph.execute(7)) == [7, 3]


def test_arrays_of_any_size_arrive_whole_and_stay(compiled):
    stage, other = Stage.remote(), Stage.remote()
    with InputNode() as value:
        graph = compiled(other.scale.bind(stage.scale.bind(value)), _buffer_size_bytes=1000)
    kept = [(n, ray.get(graph.execute(np.full(n, n)))) for n in (1, 300, 100_000, 500, 1_000_000, 3) * 3]
    assert all((array == 4 * n).all() and array.shape == (n,) for n, array in kept)


def test_errors_travel_to_the_outputs_that_need_them_and_the_graph_goes_on(compiled):
    first, second = Stage.remote(), Stage.remote(1)
    with InputNode() as value:
        bad = first.fail.bind(value)
        graph = compiled(MultiOutputNode([second.fail.bind(bad), second.describe.bind(value)]))
    failed, fine = graph.execute("bad")
    with pytest.raises(RayTaskError) as caught:
        ray.get(failed)
    assert isinstance(caught.value, NotThere) and "in fail" in str(caught.value)
    assert ray.get(fine) == ("str", {})
    assert ray.get(graph.execute("good")) == ["good", ("str", {})]


def test_values_that_cannot_travel_are_errors_with_a_reason(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(stage.unpicklable.bind(value))
    with pytest.raises(TypeError, match="pickle"):
        ray.get(graph.execute(1))
    with pytest.raises(TypeError, match="ObjectRefs or actor handles"):
        graph.execute([ray.put(1)])
    with pytest.raises(TypeError):
        graph.execute(threading.Lock())
    with pytest.raises(TypeError, match="pickle"):
        ray.get(graph.execute(2))


def test_executions_in_flight_are_bounded_and_their_results_come_in_any_order(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(stage.add.bind(value), _max_inflight_executions=3)
    refs = [graph.execute(n) for n in range(3)]
    with pytest.raises(RayCgraphCapacityExceeded, match="more than 3 in-flight executions"):
        graph.execute(3)
    assert [ray.get(refs[2]), refs[0].get(), ray.get(refs[1])] == [2, 0, 1]
    with pytest.raises(ValueError, match="can only be called once"):
        ray.get(refs[0])
    assert ray.get([graph.execute(5), graph.execute(6)]) == [5, 6]
    for wrong in (copy.copy, copy.deepcopy, ray.cloudpickle.dumps):
        with pytest.raises(ValueError, match="CompiledDAGRef cannot be"):
            wrong(refs[0])


def test_results_that_nobody_wants_are_dropped(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(MultiOutputNode([stage.add.bind(value), stage.add.bind(value, 1)]), _max_inflight_executions=2)
    for n in range(20):
        graph.execute(n)
    last = graph.execute(20)
    assert ray.get(last) == [20, 21] and not graph._buffer and not graph._dropped


def test_a_dropped_result_that_is_none_is_forgotten(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(MultiOutputNode([stage.add.bind(value), stage.nothing.bind(value)]))
    wanted, other = graph.execute(1)
    assert ray.get(wanted) == 1 and graph._buffer == {(1, 1): None}
    del other
    assert not graph._buffer and not graph._dropped


def test_buffered_results_are_bounded(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(stage.add.bind(value), _max_inflight_executions=3, _max_buffered_results=1)
    refs = [graph.execute(n) for n in range(3)]
    with pytest.raises(RayCgraphCapacityExceeded, match="more than 1 buffered results"):
        ray.get(refs[2])
    assert [ray.get(ref) for ref in refs] == [0, 1, 2], "the refused one is still there"


def test_a_time_out_is_no_end(compiled, actor, gate):
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value))
    ref = graph.execute(gate)
    with pytest.raises(RayChannelTimeoutError, match="gave no result in time"):
        ray.get(ref, timeout=0.05)
    with pytest.raises(TimeoutError):
        ref.get(timeout=0)
    gate.open()
    assert ray.get(ref) == "through"


def test_a_result_outlives_a_ctrl_c_that_ends_get(compiled, actor, monkeypatch):
    with InputNode() as value:
        graph = compiled(actor.add.bind(value))
    ref = graph.execute(7)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(graph._channels, "read", lambda *_: signal.raise_signal(signal.SIGINT))
        ray.get(ref)
    assert ray.get(ref) == 7
    with pytest.raises(ValueError, match="can only be called once"):
        ray.get(ref)


def test_other_calls_of_the_actor_run_beside_the_graph(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(stage.where.bind(value))
    actor_id, pid, put = ray.get(graph.execute(3))
    assert (actor_id, put) == (stage._actor_id.hex(), 3)
    assert ray.get(stage.where.remote(4)) == (actor_id, pid, 4) and ray.get(stage.count.remote()) == 0


def test_futures_of_an_event_loop(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(MultiOutputNode([stage.add.bind(value), stage.fail.bind(value)]), enable_asyncio=True)

    async def run():
        pairs = [await graph.execute_async(n) for n in range(5)]
        values = await asyncio.gather(*(future for pair in reversed(pairs) for future in pair))
        with pytest.raises(ValueError, match="only be awaited upon once"):
            await pairs[0][0]
        return values

    assert asyncio.run(run()) == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="Use execute_async"):
        graph.execute(1)


def test_a_result_outlives_an_await_that_is_cancelled(compiled, actor, gate):
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value), enable_asyncio=True)

    async def cancel():
        future = await graph.execute_async(gate)
        waits = asyncio.ensure_future(future)
        await asyncio.to_thread(gate.wait_arrived)
        with pytest.raises(ValueError, match="only be awaited upon once"):
            await future
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        gate.open()
        return future

    async def again(future):
        assert await future == "through"
        with pytest.raises(ValueError, match="only be awaited upon once"):
            await future

    future = asyncio.run(cancel())
    asyncio.run(again(future))


class Gates:
    """``gates[n]``; an input that is one stops the actor that passes it."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}

    def __getitem__(self, number):
        return self.made.setdefault(number, Gate(self.folder, f"gate-{number}"))


@pytest.fixture
def gates(tmp_path):
    gates = Gates(tmp_path)
    yield gates
    for gate in gates.made.values():
        gate.open()


def test_executions_begin_while_results_of_earlier_ones_are_awaited_and_actors_run_different_ones(compiled, gates):
    first, second = Stage.remote(), Stage.remote()
    with InputNode() as value:
        graph = compiled(second.hold.bind(first.pass_by.bind(value[0]), value[1]), enable_asyncio=True)

    async def run():
        gates[0].open(), gates[2].open()
        held = asyncio.ensure_future(await graph.execute_async(gates[0], gates[1]))
        await asyncio.to_thread(gates[1].wait_arrived)
        assert not held.done()
        later = await graph.execute_async(gates[2], gates[3])
        await asyncio.to_thread(gates[2].wait_arrived)
        assert not held.done(), "the first actor runs the second execution, and the second actor the first"
        last = asyncio.ensure_future(later)
        gates[1].open()
        assert await held == "through"
        await asyncio.to_thread(gates[3].wait_arrived)
        assert not last.done()
        gates[3].open()
        return await last

    assert asyncio.run(run()) == "through"


def test_all_executions_in_flight_can_be_awaited_at_once_in_any_order(compiled, actor, gates):
    """More than the event loop has threads for."""
    count = 40
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value), enable_asyncio=True, _max_inflight_executions=count)

    async def run():
        seen = []

        async def take(number, future):
            assert await future == "through"
            seen.append(number)

        futures = [await graph.execute_async(gates[number]) for number in range(count - 1)]
        takes = [asyncio.ensure_future(take(number, future)) for number, future in reversed([*enumerate(futures)])]
        await asyncio.to_thread(gates[0].wait_arrived)
        takes.append(asyncio.ensure_future(take(count - 1, await graph.execute_async(gates[count - 1]))))
        assert not seen
        for number in range(count):
            gates[number].open()
        await asyncio.gather(*takes)
        return seen

    assert asyncio.run(run()) == list(range(count)), "each as it comes"


def test_executions_begin_in_the_order_in_which_coroutines_asked_for_them(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(stage.remember.bind(value), enable_asyncio=True, _max_inflight_executions=50)

    async def run():
        futures = await asyncio.gather(*(graph.execute_async(n) for n in range(50)))
        return (await asyncio.gather(*futures))[-1]

    assert asyncio.run(run()) == list(range(50))


def test_a_teardown_ends_what_is_awaited(compiled, actor, gate):
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value), enable_asyncio=True)

    async def run():
        futures = [await graph.execute_async(gate) for _ in range(3)]
        waits = [asyncio.ensure_future(future) for future in futures]
        await asyncio.to_thread(gate.wait_arrived)
        ending = asyncio.ensure_future(asyncio.to_thread(graph.teardown))
        for result in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(result, RayChannelError) and "torn down" in str(result)
        gate.open()
        await ending
        with pytest.raises(RayChannelError, match="torn down"):
            await graph.execute_async(gate)
        with pytest.raises(RayChannelError, match="torn down"):
            await futures[0]

    asyncio.run(run())


def test_all_that_is_awaited_ends_with_the_reason_when_an_actor_is_killed(compiled, actor, gate):
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value), enable_asyncio=True)
    pid = ray.get(actor.pid.remote())

    async def run():
        waits = [asyncio.ensure_future(await graph.execute_async(gate)) for _ in range(3)]
        await asyncio.to_thread(gate.wait_arrived)
        os.kill(pid, signal.SIGKILL)
        return await asyncio.gather(*waits, return_exceptions=True)

    assert [type(result) for result in asyncio.run(run())] == [ActorDiedError] * 3


def test_an_await_gives_up_after_the_time_out_of_the_graph_and_can_be_repeated(
        compiled, actor, gate, monkeypatch):
    monkeypatch.setattr(DAGContext.get_current(), "get_timeout", 0.1)
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value), enable_asyncio=True)

    async def run():
        future = await graph.execute_async(gate)
        with pytest.raises(RayChannelTimeoutError):
            await future
        gate.open()
        while True:
            try:
                return await future
            except RayChannelTimeoutError:  # the machine is slow
                continue

    assert asyncio.run(run()) == "through"


def test_a_thread_submits_while_another_waits_for_a_result(compiled, actor, gates):
    with InputNode() as value:
        graph = compiled(actor.hold.bind(value))
    first = graph.execute(gates[0])
    taken = []
    waits = threading.Thread(target=lambda: taken.append(ray.get(first)))
    waits.start()
    gates[0].wait_arrived()
    second = graph.execute(gates[1])
    assert not taken
    gates[0].open(), gates[1].open()
    assert ray.get(second) == "through"
    waits.join()
    assert taken == ["through"]


def test_a_graph_that_a_program_drops_is_collected_and_its_threads_end(cluster):
    stage = Stage.remote()
    with InputNode() as value:
        graph = stage.add.bind(value).experimental_compile(enable_asyncio=True)

    async def run(graph):
        return await (await graph.execute_async(1))

    assert asyncio.run(run(graph)) == 1
    found = weakref.ref(graph)
    del graph
    until(lambda: found() is None, "it is collected")
    until(lambda: not any("compiled-graph" in thread.name for thread in threading.enumerate()), "its threads end")
    until(lambda: "compiled-graph" not in ray.get(stage.threads.remote()), "and that of the actor")


def test_an_await_that_finds_no_room_for_results_can_be_repeated(compiled):
    stage = Stage.remote()
    with InputNode() as value:
        graph = compiled(stage.add.bind(value), _max_inflight_executions=3, _max_buffered_results=1,
                         enable_asyncio=True)

    async def run():
        futures = [await graph.execute_async(n) for n in range(3)]
        with pytest.raises(RayCgraphCapacityExceeded, match="more than 1 buffered results"):
            await futures[2]
        return [await future for future in futures]

    assert asyncio.run(run()) == [0, 1, 2]


def test_an_actor_that_is_killed_is_named_and_the_others_are_free_again(compiled, actor):
    stage, victim = Stage.remote(), actor
    with InputNode() as value:
        graph = compiled(stage.add.bind(victim.add.bind(value)))
    assert ray.get(graph.execute(1)) == 1
    pid = ray.get(victim.pid.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((ActorDiedError, RayChannelError)):
        for _ in range(1000):
            ray.get(graph.execute(2))
    with pytest.raises(RayChannelError, match="torn down"):
        graph.execute(3)
    until(lambda: "compiled-graph" not in ray.get(stage.threads.remote()), "the thread of the other actor ends")


def test_teardown_leaves_nothing_and_frees_the_actors(compiled):
    first, second = Stage.remote(), Stage.remote()
    before = ray.get([first.open_files.remote(), second.open_files.remote()])
    with InputNode() as value:
        graph = compiled(second.scale.bind(first.scale.bind(value)))
    assert ray.get(graph.execute(np.ones(100_000)))[-1] == 4
    assert "compiled-graph" in ray.get(first.threads.remote())
    graph.teardown()
    graph.teardown()
    for actor in (first, second):
        assert "compiled-graph" not in ray.get(actor.threads.remote())
    assert ray.get([first.open_files.remote(), second.open_files.remote()]) == before
    with pytest.raises(RayChannelError, match="torn down"):
        graph.execute(np.ones(1))
    with InputNode() as value:
        again = compiled(second.add.bind(first.add.bind(value)))
    assert ray.get(again.execute(1)) == 1


def test_a_graph_that_is_forgotten_ends(cluster):
    stage = Stage.remote()
    with InputNode() as value:
        graph = stage.add.bind(value).experimental_compile()
    assert ray.get(graph.execute(1)) == 1
    del graph
    until(lambda: "compiled-graph" not in ray.get(stage.threads.remote()), "its thread ends")
    with InputNode() as value:
        graph = stage.add.bind(value).experimental_compile()
    assert ray.get(stage.graphs.remote()) == 1, "the next graph takes the place of the one that ended"
    graph.teardown()
    assert ray.get(stage.graphs.remote()) == 0


def test_a_graph_ends_with_the_process_that_compiled_it(cluster, tmp_path):
    stage = Plain.options(name="stage", lifetime="detached", namespace="graphs").remote()
    session = ray.get_runtime_context().gcs_address
    done = run_script(tmp_path, """
        import os, signal, sys
        import zray as ray
        from zray.dag import InputNode

        ray.init(sys.argv[1], namespace="graphs")
        stage = ray.get_actor("stage")
        with InputNode() as value:
            graph = stage.add.bind(value).experimental_compile()
        assert ray.get(graph.execute(1)) == 1 and "compiled-graph" in ray.get(stage.threads.remote())
        os.kill(os.getpid(), signal.SIGKILL)
        """, session, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: "compiled-graph" not in ray.get(stage.threads.remote()), "its thread ends")
    assert ray.get(stage.add.remote(1, 1)) == 2
    ray.kill(stage)


def test_a_task_may_compile_a_graph(cluster):
    @ray.remote(num_cpus=0)
    def run(stage):
        with InputNode() as value:
            graph = stage.add.bind(value).experimental_compile()
        try:
            return ray.get([graph.execute(n) for n in range(3)])
        finally:
            graph.teardown()

    assert ray.get(run.remote(Stage.remote(1))) == [1, 2, 3]


def test_a_teardown_waits_for_what_runs_and_says_when_it_takes_too_long(cluster, actor, gate, monkeypatch):
    monkeypatch.setattr(DAGContext.get_current(), "teardown_timeout", 0.1)
    with InputNode() as value:
        graph = actor.hold.bind(value).experimental_compile()
    graph.execute(gate)
    gate.wait_arrived()
    with pytest.raises(RayChannelTimeoutError, match="still runs a method"):
        graph.teardown()
    gate.open()
    until(lambda: "compiled-graph" not in ray.get(actor.threads.remote()), "the thread ends with the method")


def test_graphs_that_cannot_be_compiled_are_refused_with_a_reason(cluster):
    @ray.remote
    def task(x):
        return x

    stage, other = Stage.remote(), Stage.bind()
    with InputNode() as value, InputNode() as second:
        for graph, error, words in [
                (stage.add.bind(1), NotImplementedError, "exactly one InputNode"),
                (stage.add.bind(value, second), NotImplementedError, "exactly one InputNode"),
                (stage.add.bind(task.bind(value)), NotImplementedError, "only support actor method nodes"),
                (other.add.bind(value), ValueError, "already created with Actor.remote"),
                (stage.add.bind([value]), (ValueError, NotImplementedError), "inside of containers"),
                (stage.add.bind(value, value[0]), ValueError, "must either use InputNode"),
                (MultiOutputNode([value, stage.add.bind(value)]), ValueError, "must be calls of actors"),
                (MultiOutputNode([stage.add.bind(value), stage.add.bind(1)]), ValueError, "at least one other DAGNode"),
                (stage.later.bind(value), NotImplementedError, "Stage.later is a coroutine method")]:
            with pytest.raises(error, match=words):
                graph.experimental_compile()
        graph = stage.add.bind(value)
        for options, words in [({"_max_inflight_executions": 0}, "positive integer"),
                               ({"_max_inflight_executions": 1000}, "at most 64"),
                               ({"_buffer_size_bytes": -1}, "positive integer"),
                               ({"_submit_timeout": "x"}, "number of seconds")]:
            with pytest.raises(ValueError, match=words):
                graph.experimental_compile(**options)
        graph.experimental_compile().teardown()
        with pytest.raises(ValueError, match="multiple times"):
            graph.experimental_compile()
        node = stage.add.bind(value)
        assert node.with_tensor_transport("shm").with_tensor_transport() is node
        for transport in ("nccl", "accelerator"):
            with pytest.raises(NotImplementedError, match="shared memory of the host"):
                node.with_tensor_transport(transport)
        with pytest.raises(NotImplementedError, match="device='cuda'"):
            node.with_tensor_transport("shm", device="cuda")
        with pytest.raises(ValueError, match="Invalid transport type"):
            node.with_tensor_transport("pigeon")
    assert not glob.glob(os.path.join(ray.get_runtime_context().gcs_address, "c-*"))


def test_actors_of_another_node_are_refused(fresh, grow):
    grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})
    far = Plain.options(resources={"far": 1}).remote()
    with InputNode() as value, pytest.raises(NotImplementedError, match="actors of one node"):
        far.add.bind(value).experimental_compile()
    assert ray.get(far.add.remote(1)) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_a_graph_ends_with_its_session_and_starts_no_other(fresh, gate, is_async):
    ray.init(num_cpus=1)
    with InputNode() as value:
        graph = Stage.remote().hold.bind(value, gate).experimental_compile(enable_asyncio=is_async)

    async def wait():
        result = await graph.execute_async(1)

        async def value():
            return await result

        waiting = asyncio.ensure_future(value())
        await asyncio.to_thread(gate.wait_arrived, 1)
        await asyncio.to_thread(ray.shutdown)
        await waiting

    with pytest.raises(RayChannelError, match=r"zray was shut down since. Compile a new graph after init\(\)"):
        if is_async:
            asyncio.run(wait())
        else:
            result = graph.execute(1)
            gate.wait_arrived(1)
            ray.shutdown()
            result.get()
    graph.teardown()
    graph.teardown(kill_actors=True)
    assert not ray.is_initialized()
