"""Ctrl-C and other signals in the driver."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import IS_ZRAY, TARGET, Counts, ray

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="Ray's driver handles SIGINT in its own way")


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


@ray.remote
def hold(gate):
    gate.wait()
    return "done"


@ray.remote
def value(x):
    return x


def main_thread_is_inside():
    frame = sys._current_frames().get(threading.main_thread().ident)
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith(f"{TARGET}.api."):
        frame = frame.f_back
    return frame is not None


def interrupt_when(condition):
    """Send SIGINT to this process once ``condition`` holds and the main thread is in a call of ours; returns the
    thread that does."""

    def run():
        while not (condition() and main_thread_is_inside()):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_ctrl_c_in_get_raises_and_leaves_a_usable_driver(gate):
    ref = hold.remote(gate)
    thread = interrupt_when(lambda: gate.arrived)
    with pytest.raises(KeyboardInterrupt):
        ray.get(ref)
    thread.join()
    assert ray.get(value.remote(1)) == 1
    gate.open()
    assert ray.get(ref) == "done"


def test_ctrl_c_in_wait_raises_and_leaves_a_usable_driver(gate):
    refs = [hold.remote(gate) for _ in range(3)]
    thread = interrupt_when(lambda: gate.arrived)
    with pytest.raises(KeyboardInterrupt):
        ray.wait(refs, num_returns=3)
    thread.join()
    gate.open()
    assert ray.get(refs) == ["done"] * 3


def test_a_hundred_interrupts_at_random_points_leave_consistent_state():
    interrupted = 0
    for i in range(100):
        thread = threading.Timer((i % 10) / 2000, os.kill, (os.getpid(), signal.SIGINT))
        try:
            thread.start()
            while True:
                assert ray.get([value.remote(j) for j in range(10)]) == list(range(10))
        except KeyboardInterrupt:
            interrupted += 1
        thread.join()
    assert interrupted == 100
    assert ray.get([value.remote(j) for j in range(100)]) == list(range(100))


def test_a_handler_of_the_users_own_stays_in_place(tmp_path, session_root):
    done = run_script(tmp_path, """
        import os, signal
        import zray as ray
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(1))
        ray.init(num_cpus=1)
        os.kill(os.getpid(), signal.SIGINT)
        assert ray.get(ray.remote(lambda: 5).remote()) == 5
        ray.shutdown()
        print(seen)
    """)
    assert done.stdout.strip() == "[1]"


def test_ctrl_c_handling_is_as_before_after_shutdown(tmp_path, session_root):
    done = run_script(tmp_path, """
        import signal
        import zray as ray
        before = signal.getsignal(signal.SIGINT)
        ray.init(num_cpus=1)
        ray.shutdown()
        print(signal.getsignal(signal.SIGINT) is before)
    """)
    assert done.stdout.strip() == "True"


def test_ctrl_c_spares_the_daemon_and_the_workers(gate):
    counter = ray.remote(Counts).remote()
    assert ray.get(counter.add.remote()) == 1
    ref = hold.remote(gate)
    thread = interrupt_when(lambda: gate.arrived)
    with pytest.raises(KeyboardInterrupt):
        ray.get(ref)
    thread.join()
    assert ray.get(counter.add.remote()) == 2
    gate.open()
