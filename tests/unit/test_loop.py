"""The loop with real sockets: leadership, timers, many threads, Ctrl-C, fork, closed peers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zray.base.ids import new_incarnation
from zray.handles import refs
from zray.transport.loop import Loop, LoopStopped, Waiter
from zray.transport.mesh import Mesh
from zray.wire.codec import decode, encode
from zray.wire.messages import Locate, Resolved

PATIENCE_S = 30.0


class End:
    """One end of a conversation: answers every Locate with its oids, resolves waiters on Resolved."""

    def __init__(self, endpoint: str):
        self.me = new_incarnation()
        self.errors: list[Exception] = []
        self.mesh = Mesh(self.me, 1, endpoint, encode, decode, time.monotonic)
        self.mesh.on_error = self.errors.append
        self.loop = Loop(self.mesh, self.dispatch)
        self.waiters: dict[bytes, Waiter] = {}

    def dispatch(self, peer: bytes, code: int, message: object) -> None:
        if isinstance(message, Locate):
            if message.oids == [b"raise"]:
                raise ValueError("as asked")
            self.mesh.send(peer, Resolved.CODE, Resolved(message.oids))
        elif isinstance(message, Resolved):
            for oid in message.values:
                self.loop.notify_one(self.waiters.pop(oid))

    def ask(self, peer: bytes, oid: bytes, waiter: Waiter) -> None:
        with self.loop.lock:
            self.waiters[oid] = waiter
            self.mesh.send(peer, Locate.CODE, Locate([oid]))

    def close(self) -> None:
        self.loop.stop()
        self.mesh.check()
        self.mesh.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[End, End]]:
    a, b = End(f"ipc://{tmp_path}/a"), End(f"ipc://{tmp_path}/b")
    a.mesh.connect(b.me, b.mesh.endpoint)
    b.loop.start()
    yield a, b
    a.close()
    b.close()
    assert not [t for t in threading.enumerate() if t.name == "zray-service"]


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true"
        time.sleep(0.001)


def soon() -> float:
    return time.monotonic() + PATIENCE_S


def test_a_caller_sends_and_receives_by_itself(ends: tuple[End, End]) -> None:
    a, b = ends
    for i in range(100):
        waiter = Waiter()
        a.ask(b.me, b"%d" % i, waiter)
        assert a.loop.wait(waiter, soon())


def test_one_waiter_counts_many_completions(ends: tuple[End, End]) -> None:
    a, b = ends
    waiter = Waiter(1000)
    for i in range(1000):
        a.ask(b.me, b"%d" % i, waiter)
        a.loop.turn()
    assert a.loop.wait(waiter, soon()) and waiter.need == 0


def test_a_wait_times_out_and_leaves_nobody_in_the_lead(ends: tuple[End, End]) -> None:
    a, _ = ends
    assert a.loop.wait(Waiter(), time.monotonic() + 0.01) is False
    assert a.loop.wait(Waiter(), time.monotonic() - 1) is False
    assert a.loop._leader is None


@pytest.mark.parametrize("service", [False, True])
def test_thirty_two_threads_wait_at_once(ends: tuple[End, End], service: bool) -> None:
    a, b = ends
    if service:
        a.loop.start()
    served: list[int] = []

    def work(thread: int) -> None:
        for i in range(30):
            waiter = Waiter()
            a.ask(b.me, b"%d-%d" % (thread, i), waiter)
            assert a.loop.wait(waiter, soon())
        served.append(thread)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(served) == list(range(32))
    assert not a.loop._followers


def test_the_service_thread_serves_when_no_caller_polls(ends: tuple[End, End]) -> None:
    a, b = ends
    a.loop.start()
    waiter = Waiter()
    a.ask(b.me, b"x", waiter)
    a.loop.kick()
    until(lambda: waiter.done)
    until(lambda: a.loop._service_polling)
    waiter = Waiter()  # and a caller takes over from it
    a.ask(b.me, b"y", waiter)
    assert a.loop.wait(waiter, soon())
    until(lambda: a.loop.service_leads)


def test_the_service_thread_parks_beside_a_long_poll_and_comes_back(ends: tuple[End, End]) -> None:
    a, _ = ends
    a.loop.start()
    waiter = Waiter()
    thread = threading.Thread(target=a.loop.wait, args=(waiter,))
    thread.start()
    until(lambda: a.loop._service_parked)
    with a.loop.lock:
        a.loop.notify(waiter)
    thread.join(PATIENCE_S)
    until(lambda: a.loop.service_leads)


def test_timers_run_in_order_and_can_be_cancelled(ends: tuple[End, End]) -> None:
    a, _ = ends
    ran: list[str] = []
    waiter = Waiter()
    with a.loop.lock:
        now = time.monotonic()
        a.loop.call_at(now + 0.02, lambda: (ran.append("late"), a.loop.notify(waiter)))  # type: ignore[arg-type]
        a.loop.call_at(now + 0.01, lambda: ran.append("early"))
        a.loop.call_at(now, lambda: ran.append("never")).cancel()
    assert a.loop.wait(waiter, soon())
    assert ran == ["early", "late"]


def test_an_exception_in_dispatch_or_timer_is_reported_and_loses_nothing(ends: tuple[End, End]) -> None:
    a, b = ends
    with a.loop.lock:
        a.mesh.send(b.me, Locate.CODE, Locate([b"raise"]))
        a.loop.call_at(0.0, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    waiter = Waiter()
    a.ask(b.me, b"x", waiter)
    assert a.loop.wait(waiter, soon())
    assert [type(error) for error in b.errors] == [ValueError]
    assert [type(error) for error in a.errors] == [ZeroDivisionError]


class Stoppable(threading.Thread):
    """Waits for what never comes; ``stopped`` when the loop has ended that."""

    def __init__(self, end: End) -> None:
        super().__init__()
        self.end, self.stopped = end, False
        self.start()

    def run(self) -> None:
        try:
            self.end.loop.wait(Waiter())
        except LoopStopped:
            self.stopped = True

    def joined(self) -> bool:
        self.join(PATIENCE_S)
        return self.stopped


def test_stop_ends_every_wait(ends: tuple[End, End]) -> None:
    a, _ = ends
    a.loop.start()
    threads = [Stoppable(a) for _ in range(4)]
    until(lambda: len(a.loop._followers) == 3)
    until(lambda: a.loop._polling)
    a.loop.stop()
    assert not a.loop._polling, "its sockets may be closed now"
    assert all(thread.joined() for thread in threads)


def test_stop_ends_a_long_wait_beside_a_parked_service_thread_and_the_mesh_may_close(ends: tuple[End, End]) -> None:
    a, _ = ends
    a.loop.start()
    threads = [Stoppable(a) for _ in range(3)]
    until(lambda: a.loop._service_parked)
    a.close()
    assert all(thread.joined() for thread in threads)
    with pytest.raises(LoopStopped):
        a.loop.wait(Waiter())


def test_wait_under_the_lock_is_refused_for_it_would_never_end(ends: tuple[End, End]) -> None:
    a, _ = ends
    with a.loop.lock, pytest.raises(RuntimeError, match="cannot wait here"):
        a.loop.wait(Waiter(), soon())


def test_a_loop_that_another_thread_stopped_does_not_keep_the_next_one_from_ctrl_c(ends: tuple[End, End]) -> None:
    a, b = ends
    a.loop.install_sigint()
    stopper = threading.Thread(target=a.loop.stop)
    stopper.start()
    stopper.join()
    b.loop.install_sigint()
    assert signal.getsignal(signal.SIGINT) == b.loop._on_sigint
    b.loop.stop()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("follower", [False, True])
def test_ctrl_c_in_wait_raises_and_leaves_a_usable_loop(ends: tuple[End, End], follower: bool) -> None:
    a, b = ends
    other = Waiter()
    thread = threading.Thread(target=a.loop.wait, args=(other,))
    if follower:
        thread.start()
        until(lambda: a.loop._leader is other)
    a.loop.install_sigint()
    mine = Waiter()

    def interrupt_the_wait() -> None:
        until(lambda: mine in a.loop._followers or a.loop._leader is mine)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt_the_wait)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        a.loop.wait(mine, soon())
    killer.join()
    assert a.loop._leader is (other if follower else None) and not a.loop._followers
    waiter = Waiter()
    a.ask(b.me, b"x", waiter)
    assert a.loop.wait(waiter, soon())
    if follower:
        with a.loop.lock:
            a.loop.notify(other)
        thread.join(PATIENCE_S)


def test_ctrl_c_under_the_lock_is_raised_after_it(ends: tuple[End, End]) -> None:
    a, _ = ends
    a.loop.install_sigint()
    with a.loop.lock:
        os.kill(os.getpid(), signal.SIGINT)
        steps = list(range(1000))
        a.loop.raise_pending()  # not yet
    assert len(steps) == 1000
    with pytest.raises(KeyboardInterrupt):
        a.loop.raise_pending()
    a.loop.raise_pending()
    with pytest.raises(KeyboardInterrupt):  # and outside the lock it is raised at once
        os.kill(os.getpid(), signal.SIGINT)
    a.loop.stop()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_finaliser_is_raised_after_it(ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = ends
    a.loop.install_sigint()
    monkeypatch.setattr(refs.wake, "armed", True)
    monkeypatch.setattr(refs.wake, "call", lambda: os.kill(os.getpid(), signal.SIGINT))
    record = object()
    ref = refs.ObjectRef[object](b"x" * 28, record)
    with pytest.raises(KeyboardInterrupt):
        del ref  # Python would swallow what is raised here
        until(lambda: False)
    assert refs.dropped.pop() is record


def test_random_interrupts_leave_loop_and_mesh_consistent(ends: tuple[End, End]) -> None:
    a, b = ends
    a.loop.install_sigint()
    stop = threading.Event()

    def pester() -> None:
        while not stop.wait(0.0007):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pest = threading.Thread(target=pester)
    interrupts = answered = 0
    give_up = time.monotonic() + PATIENCE_S
    pest.start()
    try:
        while (interrupts < 300 or answered <= 10) and time.monotonic() < give_up:
            try:
                waiter = Waiter()
                a.ask(b.me, os.urandom(8), waiter)
                assert a.loop.wait(waiter)
                answered += 1
                a.loop.raise_pending()
            except KeyboardInterrupt:
                interrupts += 1
    except KeyboardInterrupt:
        pass
    finally:
        while pest.is_alive():
            try:
                stop.set()
                pest.join()
            except KeyboardInterrupt:
                pass
    try:
        a.loop.raise_pending()
    except KeyboardInterrupt:
        pass
    assert interrupts > 10 and answered > 10
    assert a.loop._leader is None and not a.loop._followers and a.loop._main_waiter is None
    a.mesh.check()
    waiter = Waiter()
    a.ask(b.me, b"last", waiter)
    assert a.loop.wait(waiter, soon())


def test_a_forked_child_gets_a_clear_error(ends: tuple[End, End]) -> None:
    a, _ = ends
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            a.loop.wait(Waiter(), 0.0)
        except RuntimeError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_waiter_belongs_to_one_thread(ends: tuple[End, End]) -> None:
    a, _ = ends
    shared = Waiter()
    thread = threading.Thread(target=a.loop.wait, args=(shared,))
    thread.start()
    until(lambda: a.loop._leader is shared)
    with pytest.raises(AssertionError, match="one waiter"):
        a.loop.wait(shared, soon())
    with a.loop.lock:
        a.loop.notify(shared)
    thread.join(PATIENCE_S)
