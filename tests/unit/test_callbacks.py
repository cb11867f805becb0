"""Callbacks of futures: in their order, and none stops those behind it."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from zray.core.waits import callbacks
from zray.core.waits.callbacks import Callbacks, GuardedFuture, when_done


def test_calls_that_return_run_in_order(monkeypatch):
    monkeypatch.setattr(callbacks, "LATE_S", 60.0)
    line, ran, ended = Callbacks(), [], threading.Event()
    for number in range(100):
        line.put(lambda number=number: ran.append((number, threading.get_ident())))
    line.put(ended.set)
    assert ended.wait(60)
    assert [number for number, _ in ran] == list(range(100))
    assert len({thread for _, thread in ran}) < 3


def test_a_call_that_blocks_does_not_stop_those_behind_it():
    line, opened, ended = Callbacks(), threading.Event(), threading.Event()
    blocked = threading.Semaphore(0)
    for _ in range(3):
        line.put(lambda: (opened.wait(60), blocked.release()))
    line.put(ended.set)
    assert ended.wait(60) and not blocked.acquire(blocking=False)
    opened.set()
    assert all(blocked.acquire(timeout=60) for _ in range(3))


def test_no_more_threads_than_allowed_block(monkeypatch):
    monkeypatch.setattr(callbacks, "THREADS_MAX", 2)
    monkeypatch.setattr(callbacks, "LATE_S", 0.0)
    line, opened, arrived = Callbacks(), threading.Event(), threading.Semaphore(0)
    ended = threading.Event()
    for _ in range(2):
        line.put(lambda: (arrived.release(), opened.wait(60)))
    assert all(arrived.acquire(timeout=60) for _ in range(2))
    line.put(ended.set)
    assert line._threads == 2 and not ended.is_set()
    opened.set()
    assert ended.wait(60)


def test_a_guarded_future_hands_over_only_on_the_thread_of_futures():
    held, line, seen, ended = GuardedFuture(), Callbacks(), [], threading.Event()
    when_done(held, lambda _: seen.append(threading.current_thread().name))

    def call_back(future: Future) -> None:
        seen.append(threading.current_thread().name)
        ended.set()
        raise ValueError("of a user")  # is logged, and ends nothing

    held.add_done_callback(call_back)

    def end() -> None:
        line.hold()
        held.set_result(1)

    thread = threading.Thread(target=end, name="of futures")
    thread.start()
    assert ended.wait(60)
    thread.join()
    assert seen == ["of futures", "zray-callbacks"]
    free = GuardedFuture()
    free.add_done_callback(lambda _: seen.append(threading.current_thread().name))
    free.set_result(1)
    assert seen[-1] == threading.current_thread().name


def test_the_end_waits_for_calls_but_not_for_itself():
    line, ran = Callbacks(), []
    line.put(lambda: (line.close(60), ran.append(1)))
    line.close(60)
    assert ran == [1]
