"""Actors: construction, order, threads, coroutines, duplicates, the end."""

from __future__ import annotations

import asyncio
import selectors
import threading

import pytest

from tests.fakes.worker import NODE, OWNER, Rig, call, task_id, value
from zray import actor as actor_module
from zray.base import errors
from zray.values import serialization
from zray.wire.messages import FAILED, ActorExit, ActorInit, ActorUp, CallsDone, CancelTask, PushCalls, StreamItem

ACTOR = b"a" * 16


class Counter:
    def __init__(self, start=0):
        self.n = start

    def add(self, by=1):
        self.n += by
        return self.n

    def fail(self):
        raise ZeroDivisionError("no")

    def leave(self):
        raise errors.ExitActor

    def items(self, n):
        yield from range(n)

    def thread(self):
        return threading.current_thread() is threading.main_thread()

    def meet(self):
        self.barrier = getattr(self, "barrier", None)
        return True


class Meeting:
    """Two calls that wait for each other: only concurrent ones end."""

    def __init__(self):
        self.barrier = threading.Barrier(2, timeout=10)

    def meet(self):
        self.barrier.wait()
        return threading.current_thread().name


class Broken:
    def __init__(self):
        raise ValueError("not today")


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


def become(rig, cls, *args, life=0, **spec):
    key, blob = serialization.dump_function(cls)
    rig.rt.definitions[key] = blob
    packed = serialization.to_bytes(serialization.dump_args(args, {})[0])
    spec = {"class_key": key, "args": packed, "class_name": cls.__name__, **spec}
    rig.rt.tell(ActorInit(ACTOR, life, spec, {}), NODE)
    return lambda: rig.rt.until(lambda: rig.sent(ActorUp))


def push(rig, first, *calls, life=0, peer=OWNER):
    rig.rt.tell(PushCalls(ACTOR, life, first, list(calls)), peer)


def test_calls_run_in_order_on_the_main_thread(rig):
    up = become(rig, Counter, 10)

    def script():
        assert up()[0].error == b""
        push(rig, 1, *[call(n, "add", n) for n in range(1, 101)])
        push(rig, 101, call(101, "thread"), call(102, "fail"), call(103, "nothing"), call(104, "__ray_ready__"))
        rig.wait_ends(104, CallsDone)

    rig.drive(script)
    ends = rig.ends(CallsDone)
    assert [value(ends[n]) for n in range(1, 101)] == [10 + n * (n + 1) // 2 for n in range(1, 101)]
    assert value(ends[101]) is True and value(ends[104]) is True
    assert isinstance(errors.from_failure(*ends[102][1:]), ZeroDivisionError)
    assert isinstance(errors.from_failure(*ends[103][1:]), AttributeError)


def test_a_repeated_call_is_answered_from_what_is_kept_and_not_run_again(rig):
    up = become(rig, Counter)

    def script():
        up()
        push(rig, 1, call(1, "add"), call(2, "add"))
        rig.rt.until(lambda: len(rig.ends(CallsDone)) == 2)
        push(rig, 2, call(2, "add"), call(3, "add"))
        rig.rt.until(lambda: sum(len(m.ends) // 2 for m in rig.sent(CallsDone)) == 4)
        push(rig, 1, call(9, "add"), life=7)  # another life's

    rig.drive(script)
    replies = [pair for m in rig.sent(CallsDone) for pair in zip(m.ends[::2], map(value, m.ends[1::2]), strict=True)]
    assert sorted(replies) == [(1, 1), (2, 2), (2, 2), (3, 3)]
    assert rig.executor.machine.actor.refused == 1


def test_a_constructor_that_raises_is_reported(rig):
    up = become(rig, Broken)
    rig.drive(up)
    [message] = rig.sent(ActorUp)
    assert isinstance(errors.load_error(message.error), ValueError)


def test_exit_actor_leaves_after_the_replies_before_it(rig):
    up = become(rig, Counter)

    def script():
        up()
        push(rig, 1, call(1, "add"), call(2, "leave"), call(3, "add"))
        rig.rt.until(lambda: rig.sent(ActorExit))

    rig.drive(script)
    assert set(rig.ends(CallsDone)) == {1}
    kinds = [type(m) for _, m in rig.rt.sent]
    assert kinds.index(CallsDone) < kinds.index(ActorExit)


def test_terminate_answers_and_leaves(rig):
    up = become(rig, Counter)

    def script():
        up()
        push(rig, 1, call(1, "__ray_terminate__"), call(2, "add"))
        rig.rt.until(lambda: rig.sent(ActorExit))

    rig.drive(script)
    assert set(rig.ends(CallsDone)) == {1}


def test_ray_call_runs_a_function_on_the_instance(rig):
    up = become(rig, Counter, 5)

    def script():
        up()
        push(rig, 1, call(1, "__ray_call__", lambda self, x: self.n + x, 3))
        rig.wait_ends(1, CallsDone)

    rig.drive(script)
    assert value(rig.ends(CallsDone)[1]) == 8


def test_a_generator_method_streams(rig):
    up = become(rig, Counter)

    def script():
        up()
        push(rig, 1, call(1, "items", 3, returns=-1))
        rig.wait_ends(1, CallsDone)

    rig.drive(script)
    assert [value(m.value) for m in rig.sent(StreamItem)] == [0, 1, 2]


def test_a_threaded_actor_runs_calls_at_once(rig):
    up = become(rig, Meeting, max_concurrency=2)

    def script():
        up()
        push(rig, 1, call(1, "meet"), call(2, "meet"))
        rig.wait_ends(2, CallsDone)

    rig.drive(script)
    assert len({value(w) for w in rig.ends(CallsDone).values()}) == 2


def test_concurrency_groups_do_not_wait_for_each_other(rig):
    up = become(rig, Meeting, concurrency_groups={"io": 1})

    def script():
        up()
        push(rig, 1, call(1, "meet"), call(2, "meet", extra={"group": "io"}))
        rig.wait_ends(2, CallsDone)

    rig.drive(script)
    assert all("BrokenBarrier" not in str(w) for w in rig.ends(CallsDone).values())


def test_a_waiting_call_of_a_threaded_actor_can_be_cancelled(rig):
    up = become(rig, Meeting, concurrency_groups={"io": 1})

    def script():
        up()
        push(rig, 1, call(1, "meet"), call(2, "meet"))
        rig.rt.tell(CancelTask(task_id(2), 0, False))
        rig.rt.until(lambda: 2 in rig.ends(CallsDone))
        push(rig, 3, call(3, "meet", extra={"group": "io"}))
        rig.wait_ends(3, CallsDone)

    rig.drive(script)
    assert rig.ends(CallsDone)[2][:2] == [FAILED, "cancelled"]


def test_exit_actor_needs_an_actor():
    with pytest.raises(TypeError, match="exit_actor"):
        actor_module.exit_actor()


# ---------------------------------------------------------------- async actors


class Async:
    def __init__(self):
        self.event = asyncio.Event()
        self.running = self.most = 0

    async def wait(self):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.event.wait()
        finally:
            self.running -= 1
        return self.most

    async def set(self):
        self.event.set()

    def plain(self):
        return threading.current_thread() is threading.main_thread()

    async def items(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def fail(self):
        raise KeyError("async")

    async def leave(self):
        raise errors.AsyncioActorExit


@pytest.fixture
def async_rig(rig, monkeypatch):
    """asyncio's own selector: that of the mesh needs real sockets and has its test in test_worker_meshloop."""
    from zray.worker.actors import coroutines

    class PlainSelector(selectors.DefaultSelector):
        def __init__(self, on_round):
            super().__init__()
            self.on_round = on_round

        def select(self, timeout=None):
            events = super().select(0 if self.on_round() else timeout)
            self.on_round()
            return events

    class PlainLoop(asyncio.SelectorEventLoop):
        def next_round(self):
            self.call_soon_threadsafe(lambda: None)

    monkeypatch.setattr(coroutines, "new_event_loop", lambda loop, on_round: PlainLoop(PlainSelector(on_round)))
    return rig


def test_coroutines_run_together_up_to_max_concurrency(async_rig):
    rig = async_rig
    up = become(rig, Async, is_async=True, max_concurrency=3, concurrency_groups={"control": 1})

    def script():
        up()
        push(rig, 1, *[call(n, "wait") for n in range(1, 8)], call(8, "plain", extra={"group": "control"}))
        rig.rt.until(lambda: 8 in rig.ends(CallsDone))
        push(rig, 9, call(9, "set", extra={"group": "control"}))
        rig.wait_ends(9, CallsDone)

    rig.drive(script)
    ends = rig.ends(CallsDone)
    assert max(value(ends[n]) for n in range(1, 8)) == 3
    assert value(ends[8]) is True


def test_async_calls_can_be_cancelled_running_or_waiting(async_rig):
    rig = async_rig
    up = become(rig, Async, is_async=True, max_concurrency=1, concurrency_groups={"control": 1})

    def script():
        up()
        push(rig, 1, call(1, "wait"), call(2, "wait"), call(3, "plain", extra={"group": "control"}))
        rig.wait_ends(1, CallsDone)
        rig.rt.tell(CancelTask(task_id(2), 0, False))
        rig.rt.tell(CancelTask(task_id(1), 0, False))
        rig.wait_ends(3, CallsDone)

    rig.drive(script)
    assert [rig.ends(CallsDone)[n][1] for n in (1, 2)] == ["cancelled", "cancelled"]


def test_async_generators_errors_and_exit(async_rig):
    rig = async_rig
    up = become(rig, Async, is_async=True)

    def script():
        up()
        push(rig, 1, call(1, "items", 4, returns=-1), call(2, "fail"))
        rig.wait_ends(2, CallsDone)
        push(rig, 3, call(3, "leave"))
        rig.rt.until(lambda: rig.sent(ActorExit))

    rig.drive(script)
    assert [value(m.value) for m in rig.sent(StreamItem)] == [0, 1, 2, 3]
    assert rig.ends(CallsDone)[1][2] == {"stream_len": 4}
    assert isinstance(errors.from_failure(*rig.ends(CallsDone)[2][1:]), KeyError)
