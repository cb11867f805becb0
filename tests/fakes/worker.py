"""A Runtime small enough to be obviously right: ``sent`` is what the executor sent, ``tell`` is how messages reach it.

The loop is one condition variable; timers run on a thread of their own, as the service thread of the real loop does.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from zray.base import ids
from zray.base.config import Config
from zray.core.values import Values
from zray.values import serialization
from zray.wire import messages

OWNER = b"owner---"
NODE = b"node----"
ME = b"worker--"
DEADLINE_S = 10.0


class FakeLoop:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.timers: list[Any] = []
        self.sigint = False
        self.kicks = 0
        self.stopped = False
        self.service = threading.Thread(target=self._serve, daemon=True)
        self.service.start()

    def call_at(self, when: float, fn: Any) -> Any:
        handle = SimpleNamespace(when=when, fn=fn, cancel=lambda: None)
        with self.lock:
            self.timers.append(handle)
            self.changed.notify_all()
        return handle

    def wait(self, waiter: Any, deadline: float | None) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: waiter.done, None if deadline is None else deadline - time.monotonic())

    def notify(self, waiter: Any) -> None:
        with self.changed:
            waiter.done = True
            self.changed.notify_all()

    def interrupt(self) -> None:
        if not self.lock._is_owned():  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        self.sigint = True

    def forget_interrupt(self) -> None:
        self.sigint = False

    def notify_one(self, waiter: Any) -> None:
        self.notify(waiter)

    def kick(self) -> None:
        self.kicks += 1

    def _serve(self) -> None:
        with self.changed:
            while not self.stopped:
                now = time.monotonic()
                due = [timer for timer in self.timers if timer.when <= now]
                for timer in due:
                    self.timers.remove(timer)
                    timer.fn()
                nearest = min((timer.when for timer in self.timers), default=None)
                if not due:
                    self.changed.wait(None if nearest is None else max(0.0, nearest - time.monotonic()))

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        self.service.join()


class Context(threading.local):
    task = b""
    attempt = 0
    function: Any = (b"", None)
    task_name = ""
    actor = b""
    receiver = b""
    prefix_of: Any = None
    prefix = b""
    counter = 0


class FakeSubmitter:
    """The tasks of this worker: those that it runs itself come and go."""

    def __init__(self) -> None:
        self.inline: list[Any] = []
        self.finished: list[tuple[Any, Any]] = []

    def take_queued(self, task: Any) -> bool:
        return True

    def finish(self, task: Any, result: Any, error: Any) -> None:
        self.finished.append((task, result))


class FakeRuntime:
    kind = "worker"
    incarnation = ME
    node = NODE
    job = 1
    node_info: dict[str, Any] = {}

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.config = Config()
        self.handlers: dict[int, Any] = {}
        self.sent: list[tuple[bytes, Any]] = []
        self.marks = memoryview(bytearray(24)).cast("q")
        self.context = Context()
        self.values = Values(self, self.loop, self.context, None, None)  # type: ignore[arg-type]
        self.fetching: set[bytes] = set()
        self.definitions: dict[bytes, bytes] = {}
        self.cancelled_children: list[bytes] = []
        self.executor: Any = None
        self.busy = False
        self.submitter = FakeSubmitter()

    def attach_executor(self, executor: Any) -> None:
        self.executor = executor
        self.handlers.update(executor.machine.handlers)

    def send(self, peer: bytes, message: Any) -> None:
        with self.loop.changed:
            self.sent.append((peer, message))
            self.loop.changed.notify_all()

    def tell(self, message: Any, peer: bytes = OWNER) -> None:
        """Deliver a message as the polling thread would."""
        with self.loop.lock:
            self.handlers[message.CODE](peer, message)

    def until(self, condition: Any) -> Any:
        with self.loop.changed:
            found = None

            def met() -> Any:
                nonlocal found
                found = condition()
                return found

            assert self.loop.changed.wait_for(met, DEADLINE_S), f"did not happen; sent: {self.sent[-5:]}"
            return found

    def fetch_function(self, key: bytes) -> bytes:
        return self.definitions[key]

    def encode_result(self, value: Any, task: bytes, index: int) -> Any:
        return serialization.to_bytes(serialization.dumps(value))

    def still_held(self, records: Any) -> list[list[Any]]:
        return []

    def owner_busy(self) -> bool:
        return self.busy

    def flush_metrics(self) -> None:
        pass

    def parents(self) -> list[list[bytes]]:
        return []

    def cancel_children(self, task: bytes) -> None:
        self.cancelled_children.append(task)


class Ended(BaseException):
    """The process would end here, with this code."""


class FakeSurroundings:
    def on_job(self, message: Any) -> None:
        pass

    def on_lease(self, lease: Any) -> None:
        pass

    def on_actor(self, message: Any) -> None:
        pass

    def end(self, code: int) -> Any:
        raise Ended(code)


def task_id(n: int) -> bytes:
    return ids.task_id(b"p" * ids.PREFIX_SIZE, n)


def call(n: int, function: bytes | str, *args: Any, attempt: int = 0, returns: int = 1, extra: dict | None = None,
         **kwargs: Any) -> list[Any]:
    payload, _, _ = serialization.dump_args(args, kwargs)
    return [task_id(n), attempt, function, serialization.to_bytes(payload), returns, extra]


class Rig:
    """An executor over a FakeRuntime, running on the test's (main) thread when asked to."""

    def __init__(self) -> None:
        from zray.worker.executor import TaskExecutor

        self.rt = FakeRuntime()
        self.executor = TaskExecutor(self.rt, FakeSurroundings())
        self.executor.machine.has_job = True
        self.executor.install()

    def define(self, function: Any) -> bytes:
        key, blob = serialization.dump_function(function)
        self.rt.definitions[key] = blob
        self.rt.tell(messages.FunctionDef(key, blob))
        return key

    def drive(self, script: Any = None) -> None:
        """Run the executor on this thread while ``script`` plays the owner on another; ends when the script does."""
        failure: list[BaseException] = []

        def play() -> None:
            try:
                if script is not None:
                    script()
            except BaseException as error:
                failure.append(error)
            finally:
                self.executor.stop("the script is over")

        player = threading.Thread(target=play)
        player.start()
        self.executor.run_forever()
        player.join()
        if failure:
            raise failure[0]

    def ends(self, kind: type = messages.TasksDone) -> dict[int, Any]:
        """Results by sequence number."""
        found: dict[int, Any] = {}
        for _, message in list(self.rt.sent):
            if isinstance(message, kind):
                pairs = iter(message.ends)
                for sequence, result in zip(pairs, pairs, strict=True):
                    assert sequence not in found, f"{sequence} was answered twice"
                    found[sequence] = result
        return found

    def sent(self, kind: type) -> list[Any]:
        return [message for _, message in list(self.rt.sent) if isinstance(message, kind)]

    def wait_ends(self, count: int, kind: type = messages.TasksDone) -> dict[int, Any]:
        """Results by sequence number, once there are ``count`` of them."""
        return self.rt.until(lambda: found if len(found := self.ends(kind)) >= count else None)

    def close(self) -> None:
        self.executor.interrupts.uninstall()
        self.rt.loop.stop()


def value(wire: Any) -> Any:
    assert type(wire) is bytes, wire
    return serialization.loads(wire)


@contextlib.contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns every 10 us, so that they meet in the middle of everything."""
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(old)
