"""Load on the control store, run inside a driver: puts and gets of user keys, timed one by one.

Keys have 25 bytes and values 512, as in the measurement of the GCS in the Ray paper (figure 10).  A request goes from
the driver to its node, from there to the head (puts) or the tail (gets) of the chain, down the chain (puts), and back.
Times are of ``time.monotonic``, which all processes of a machine share.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from zray.core.runtime import current

KEY = "{:025d}"
VALUE_BYTES = 512
WAIT_S = 30.0


class Stream:
    """Requests one after the other, ``depth`` at a time, until ``until``; when each was made, and how long it took."""

    def __init__(self, runtime: Any, make: Callable[[int, Callable[[Any], None]], Any], until: float, depth: int,
                 finished: Callable[[], None], pace_s: float = 0.0) -> None:
        self.called, self.took = array("d"), array("d")
        self.errors: list[str] = []
        self._runtime, self._make, self._until, self._finished, self._pace_s = runtime, make, until, finished, pace_s
        self._number = 0
        self._open = depth

    def start(self) -> None:
        """Under the loop's lock."""
        for _ in range(self._open):
            self._next()

    def _next(self) -> None:
        start = time.monotonic()

        def answered(call: Any) -> None:
            now = time.monotonic()
            self.called.append(start)
            self.took.append(now - start)
            if call.error:
                self.errors.append(call.error)
            if now >= self._until:
                self._open -= 1
                if not self._open:
                    self._finished()
            elif self._pace_s:
                self._runtime.loop.call_at(now + self._pace_s, self._next)
            else:
                self._next()

        self._number += 1
        self._make(self._number, answered)


def _run(streams: dict[str, tuple[Callable[..., Any], int]], seconds: float, pace_s: float) -> dict[str, Any]:
    runtime: Any = current()
    waiter = runtime.loop.waiter(len(streams))
    until = time.monotonic() + seconds
    made = {name: Stream(runtime, make, until, depth, lambda: runtime.loop.notify_one(waiter), pace_s)
            for name, (make, depth) in streams.items()}
    with runtime.loop.lock:
        for stream in made.values():
            stream.start()
    if not runtime.loop.wait(waiter, until + WAIT_S):
        raise TimeoutError(f"requests to the control store without an answer for {WAIT_S:g} s")
    return {name: (stream.called.tolist(), stream.took.tolist(), stream.errors) for name, stream in made.items()}


def load(ray: Any, seconds: float, puts: int = 1, gets: int = 1, keys: int = 100,
         pace_s: float = 0.0) -> dict[str, Any]:
    """``puts`` and ``gets`` requests under way at a time for ``seconds``, each ``pace_s`` after the last has ended.

    "puts" and "gets" -> (when called, seconds each took, errors).
    """
    gcs = current().gcs  # type: ignore[union-attr]
    value = b"v" * VALUE_BYTES
    names = [KEY.format(number).encode() for number in range(keys)]
    streams: dict[str, tuple[Callable[..., Any], int]] = {}
    if puts:
        streams["puts"] = (lambda n, done: gcs.kv_put(names[n % keys], value, "bench", done=done)), puts
    if gets:
        streams["gets"] = (lambda n, done: gcs.kv_get(names[n % keys], "bench", done=done)), gets
    return _run(streams, seconds, pace_s)


def fill(ray: Any, keys: int) -> int:
    """Put ``keys`` keys, and return when all are acknowledged."""
    _each(keys, lambda gcs, n, done: gcs.kv_put(KEY.format(n).encode(), b"v" * VALUE_BYTES, "bench", done=done))
    return keys


def missing(ray: Any, keys: int) -> int:
    """How many of them are not there, or not as they were put."""
    answers = _each(keys, lambda gcs, n, done: gcs.kv_get(KEY.format(n).encode(), "bench", done=done))
    return sum(answer != b"v" * VALUE_BYTES for answer in answers)


def _each(count: int, make: Callable[[Any, int, Callable[[Any], None]], Any]) -> list[Any]:
    """All answers, at most 1000 requests under way."""
    runtime: Any = current()
    answers: list[Any] = [None] * count
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        waiter = runtime.loop.waiter(len(numbers))

        def answered(n: int, waiter: Any, call: Any) -> None:
            answers[n] = call.result()
            runtime.loop.notify_one(waiter)

        with runtime.loop.lock:
            for n in numbers:
                make(runtime.gcs, n, partial(answered, n, waiter))
        if not runtime.loop.wait(waiter, time.monotonic() + WAIT_S):
            raise TimeoutError(f"requests to the control store without an answer for {WAIT_S:g} s")
    return answers


def pass_tasks(ray: Any, count: int) -> None:
    """Run ``count`` tasks, a thousand at a time."""
    nothing = ray.remote(_nothing)
    for _ in range(count // 1000):
        ray.get([nothing.remote() for _ in range(1000)])


def _nothing() -> None:
    return None


def history(ray: Any, seconds: float, prefix: str, keys: int, seed: int, streams: int = 2) -> list[tuple[Any, ...]]:
    """Random puts, gets, deletes and puts of absent keys for ``seconds``: (key, action, result, called, returned).

    For zray.sim.linearizability; values are unique.  Every request is answered, or TimeoutError.
    """
    runtime: Any = current()
    random = Random(seed)
    found: list[tuple[Any, ...]] = []
    waiter = runtime.loop.waiter(streams)
    until = time.monotonic() + seconds

    def issue() -> None:
        key = f"{prefix}/{random.randrange(keys)}"
        value = random.getrandbits(64).to_bytes(8, "big")
        kind = random.choice(("put", "put", "get", "get", "get", "add", "delete"))
        called = time.monotonic()

        def answered(call: Any) -> None:
            now = time.monotonic()
            action = (kind, value) if kind in ("put", "add") else (kind,)
            found.append((key, action, call.error or call.value, called, now))
            if now < until:
                issue()
            else:
                runtime.loop.notify_one(waiter)

        gcs, name = runtime.gcs, key.encode()
        if kind == "get":
            gcs.kv_get(name, "fuzz", done=answered)
        elif kind == "delete":
            gcs.kv_del(name, "fuzz", done=answered)
        else:
            gcs.kv_put(name, value, "fuzz", overwrite=kind == "put", done=answered)

    with runtime.loop.lock:
        for _ in range(streams):
            issue()
    if not runtime.loop.wait(waiter, until + WAIT_S):
        raise TimeoutError(f"requests to the control store without an answer for {WAIT_S:g} s")
    return found


def read(ray: Any, names: list[str]) -> list[tuple[Any, ...]]:
    """The keys as they are now, in the same form."""
    called = time.monotonic()
    values = _each(len(names), lambda gcs, n, done: gcs.kv_get(names[n].encode(), "fuzz", done=done))
    return [(name, ("get",), value, called, time.monotonic()) for name, value in zip(names, values, strict=True)]
