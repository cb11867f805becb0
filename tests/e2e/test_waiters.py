"""A wait that is given up, by a time-out, Ctrl-C or a cancellation, leaves nothing at what it waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from tests.e2e.target import exceptions, ray, until

pytestmark = [pytest.mark.zray_only, pytest.mark.filterwarnings("ignore:num_returns='dynamic'")]
TIMES = 20


@pytest.fixture
def pending(cluster, gate):
    """One of each kind of thing that can be waited for: (what to wait with, the records whose waiters count)."""
    from zray.handles.connection import connected

    @ray.remote(num_cpus=0)
    def hold(gate):
        gate.wait()

    @ray.remote(num_cpus=0)
    def stream(gate):
        gate.wait()
        yield 1

    @ray.remote(num_cpus=0, num_returns="dynamic")
    def dynamic(gate):
        gate.wait()
        yield 1

    ref, refs, mapped = hold.remote(gate), [hold.remote(gate) for _ in range(2)], hold.map([gate, gate])
    items, late = stream.remote(gate), dynamic.remote(gate)

    def get(what):
        return lambda timeout: ray.get(what, timeout=timeout)

    def wait(timeout):
        if not ray.wait(refs, timeout=timeout)[0]:
            raise exceptions.GetTimeoutError("nothing is ready")

    yield {
        "one": (get(ref), [ref._record]), "several": (get(refs), [each._record for each in refs]),
        "map": (get(mapped), [mapped._batch]),
        "wait": (wait, [each._record for each in refs]),
        "next": (lambda timeout: connected().next_of_stream(items._stream, timeout), [items._stream]),
        "dynamic": (get(late), [late._record])}
    gate.open()
    ray.get([ref, *refs])


KINDS = ["one", "several", "map", "wait", "next", "dynamic"]


def waiters(records) -> int:
    from zray.handles.connection import connected

    runtime = connected()
    with runtime.loop.lock:
        runtime.empty_dropped()
        return sum(len(record.waiters or ()) for record in records)


@pytest.mark.parametrize("kind", KINDS)
def test_time_outs_leave_no_waiters(pending, kind):
    wait, records = pending[kind]
    before = waiters(records)
    for _ in range(TIMES):
        with pytest.raises(exceptions.GetTimeoutError):
            wait(0.001)
    assert waiters(records) == before


@pytest.mark.parametrize("kind", KINDS)
def test_interrupts_leave_no_waiters(pending, kind):
    from zray.handles.connection import connected

    wait, records = pending[kind]
    before = waiters(records)

    def interrupt():
        until(lambda: connected().loop._main_waiter is not None, "the main thread waits")
        os.kill(os.getpid(), signal.SIGINT)

    for timeout in (None, 60.0):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            wait(timeout)
        thread.join()
    assert waiters(records) == before


def test_cancelled_awaits_and_futures_leave_no_waiters(pending):
    _, [record] = pending["one"]
    ref = ray.ObjectRef(record.oid, record)
    before = waiters([record])

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref, 0.001)

    for _ in range(TIMES):
        asyncio.run(give_up())
        ref.future().cancel()
    assert waiters([record]) == before


def test_items_of_a_generator_that_are_awaited_in_vain_leave_no_waiters(pending):
    from zray.handles.connection import connected

    _, [stream] = pending["next"]
    before = waiters([stream])

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connected().next_of_stream_async(stream), 0.001)

    for _ in range(TIMES):
        asyncio.run(give_up())
    assert waiters([stream]) == before
