"""A Runner that remembers what it was asked, and a WorkerMachine over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fakes.worker import NODE, OWNER, call
from zray.wire.messages import ActorInit, JobSettings
from zray.worker.actors.life import CallGroup
from zray.worker.machine import CALLS_LOOK_S, HAND_BACK_AFTER_S, WorkerMachine
from zray.worker.queue import Entry
from zray.worker.run.results import identity

ACTOR = b"a" * 16


class FakeRunner:
    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.timers: list[Callable[[], None]] = []
        self.interruptible: set[tuple[bytes, int]] = set()
        self.started: list[tuple[CallGroup, Entry]] = []
        self.busy = False

    def wake(self) -> None:
        self.asked.append(("wake",))

    def start_calls(self, started: list[tuple[CallGroup, Entry]]) -> None:
        self.started += started

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        assert seconds in (HAND_BACK_AFTER_S, CALLS_LOOK_S)
        self.timers.append(action)

    def kick(self) -> None:
        self.asked.append(("kick",))

    def interrupt(self, task: bytes, attempt: int) -> bool:
        self.asked.append(("interrupt", task, attempt))
        return (task, attempt) in self.interruptible

    def define(self, key: bytes, blob: bytes, name: str) -> None:
        self.asked.append(("define", key, blob, name))

    def take_on_job(self, message: JobSettings) -> None:
        self.asked.append(("job", message.job))

    def cancel_children(self, task: bytes) -> None:
        self.asked.append(("cancel children", task))

    def owner_busy(self) -> bool:
        return self.busy

    def answered(self, count: int) -> None:
        pass

    def runs_long(self, task: list[Any]) -> None:
        self.asked.append(("long", *identity(task)))

    def report(self) -> None:
        self.asked.append(("report",))

    def released(self) -> None:
        self.asked.append(("released",))


class MachineRig:
    """A machine whose messages are told to it, and lie in ``sent``."""

    def __init__(self) -> None:
        self.runner = FakeRunner()
        self.marks = [0, 0, 0]
        self.sent: list[Any] = []
        self.machine = WorkerMachine(NODE, self.marks, self._send, self.runner)
        self.machine.has_job = True

    def _send(self, peer: bytes, message: Any) -> None:
        self.sent.append((peer, message))

    def tell(self, message: Any, peer: bytes = OWNER) -> None:
        self.machine.handlers[message.CODE](peer, message)

    def take(self, kind: type | None = None) -> list[Any]:
        """What was sent since the last look, or of that what is of this kind."""
        taken, self.sent = self.sent, []
        return [message for _, message in taken if kind is None or isinstance(message, kind)]

    def tick(self) -> None:
        """HAND_BACK_AFTER_S passes, or CALLS_LOOK_S."""
        timers, self.runner.timers = self.runner.timers, []
        for timer in timers:
            timer()

    def run(self, result: Any = b"r", took_ns: int = 0) -> Any:
        """The next task starts and ends."""
        entry = self.machine.start()
        self.machine.finish(result, took_ns)
        return entry

    def become(self, **sizes: int) -> None:
        """The process is an actor from now on; ``sizes``: with concurrency groups, ``default`` among them."""
        self.tell(ActorInit(ACTOR, 3, {"class_key": b"k", "class_name": "A"}, {}), NODE)
        life = self.machine.become_actor()
        if sizes:
            groups = {"" if name == "default" else name: size for name, size in sizes.items()}
            life.run_side_by_side(groups, lambda task: (task[5] or {}).get("group", ""))

    def asked(self, verb: str) -> list[tuple[Any, ...]]:
        return [one[1:] for one in self.runner.asked if one[0] == verb]


def calls(*numbers: int, **extra: Any) -> list[list[Any]]:
    return [call(number, "method", extra=extra or None) for number in numbers]
