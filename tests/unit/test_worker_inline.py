"""Where a stack may be lent: inside no protected block."""

from __future__ import annotations

import contextlib
import sys
import threading

from zray.worker.run.inline import LOCK_NAMES, in_protected_block

LOCK = threading.Lock()


def here() -> bool:
    frame = sys._getframe(1)
    return in_protected_block(frame.f_code, frame.f_lasti)


def test_plain_code_is_not_protected():
    found = [here()]
    for _ in range(2):
        found.append(here())
    while not found[0] and len(found) < 5:
        found.append(here())
    assert found == [False] * 5


def test_with_and_try_are_protected_and_end():
    with LOCK:
        inside = here()
    with contextlib.suppress(ValueError):
        suppressed = here()
    try:
        tried = here()
    finally:
        last = here()
    try:
        raise ValueError
    except ValueError:
        handling = here()
    after = here()
    assert inside and suppressed and tried and handling
    assert not after
    assert isinstance(last, bool)  # a finally is compiled twice; only one of the copies is protected


def test_a_long_function_is_read_right():
    source = "def f(probe, lock):\n" + "    x = [1, 2, 3]\n" * 3000 + (
        "    before = probe()\n    with lock:\n        inside = probe()\n    return before, inside, probe()\n")
    scope: dict = {}
    exec(source, scope)
    assert scope["f"](here, LOCK) == (False, True, False)


def test_acquire_by_name_is_known():
    def f(lock):
        lock.acquire()

    assert not LOCK_NAMES.isdisjoint(f.__code__.co_names)
