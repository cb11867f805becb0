"""An actor with checkpoints, its callers, its home and a disk: the machines of both sides, everything else a list.

The state of the actor is the list of the calls that were applied, and a result is the state after its call.  So what a
caller has seen can be compared with the state at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from zray.owner.call_log import CallLog
from zray.owner.records import Function, Task
from zray.wire import messages as m
from zray.worker.actors.logged import CheckpointMark, LoggedCalls, Replayed
from zray.worker.queue import TaskQueue

ACTOR = b"actor"
ADD = Function(b"", b"", "add")


class Caller:
    """A process that calls the actor; as zray.owner.calls does it, without waiting."""

    def __init__(self, name: bytes, world: World, limit: int):
        self.name, self.world = name, world
        self.log = CallLog(limit, lambda pins: None)
        self.queue: deque[Any] = deque()
        self.inflight: dict[int, Any] = {}
        self.life = -1
        self.next = 1
        self.made = 0
        self.seen: dict[int, list[Any]] = {}  # call -> the state that its result shows
        self.alive = True

    def call(self) -> None:
        self.made += 1
        self.queue.append(Task(self.made.to_bytes(24, "big"), ADD, b"", 1, None, -1))
        self.pump()

    def pump(self) -> None:
        world = self.world
        if not world.up or self.life != world.life or not self.alive:
            return
        if self.log.offered < self.life:
            for offer in self.log.offer(ACTOR, self.life):
                world.to_actor[self.name].append(offer)
        if self.log.wants_checkpoint:
            self.log.asked = True
            world.to_actor[self.name].append(m.AskCheckpoint(ACTOR, self.life, self.log.ended))
        while self.queue and not self.log.is_full:
            task = self.queue.popleft()
            wire = (task.tid, 0, "add", [self.name, int.from_bytes(task.tid, "big")], 1, None)
            number = self.log.pushed(task, self.life, self.next, wire)
            self.inflight[self.next] = task
            world.to_actor[self.name].append(
                m.PushLogged(ACTOR, self.life, self.next, [list(wire)], [number], self.log.ended))
            self.next += 1

    def hear(self, message: Any) -> None:
        if type(message) is m.CallsCovered:
            self.log.cover(message.start, message.life)
        else:
            for sequence, result, start in zip(message.ends[::2], message.ends[1::2], message.starts, strict=True):
                task = self.inflight.pop(sequence, None)
                if task is not None:
                    self.log.answered(message.life, sequence, start, task)
                    x = int.from_bytes(task.tid, "big")
                    assert x not in self.seen, "a call is answered twice"
                    self.seen[x] = result
            self.log.told(message.order)
        self.log.check()
        self.pump()

    def drained(self, life: int) -> None:
        """No message of the life before comes any more."""
        self.queue.extendleft(self.inflight[sequence] for sequence in sorted(self.inflight, reverse=True))
        self.inflight, self.life, self.next = {}, life, 1
        self.pump()


class World:
    """See the module's docstring."""

    def __init__(self, every: int, limits: dict[bytes, int]):
        self.every = every
        self.life = -1
        self.up = False
        self.callers = {name: Caller(name, self, limit) for name, limit in limits.items()}
        self.to_actor: dict[bytes, deque[Any]] = {name: deque() for name in limits}
        self.to_caller: dict[bytes, deque[Any]] = {name: deque() for name in limits}
        self.to_home: deque[Any] = deque()
        self.from_home: deque[Any] = deque()
        self.known: set[bytes] = set()  # by the home
        self.checkpoint: dict[str, Any] | None = None
        self.disk: dict[str, Any] = {}
        self.timers: list[Any] = []
        self.lost = ""
        self.replayed = 0
        self.restart()

    # ------------------------------------------------------------ the actor

    def restart(self) -> None:
        self.life += 1
        self.up = False
        for queue in (*self.to_actor.values(), self.to_home, self.from_home):
            queue.clear()
        self.timers = []
        self.tasks = TaskQueue()
        spec = {"checkpoints": {"calls": self.every}, "recovery": {
            "checkpoint": self.checkpoint, "callers": sorted(self.known)}}
        self.logged = LoggedCalls(
            m.ActorInit(ACTOR, self.life, spec, {}), self.tasks, to_node=self.to_home.append,
            send=lambda caller, message: self.to_caller[caller].append(message),
            later=lambda seconds, action: self.timers.append(action), wake=lambda: None)
        taken, self.state = self.disk[self.checkpoint["file"]] if self.checkpoint else (None, [])
        self.state = list(self.state)
        self.logged.restore(taken)

    def ready(self, order: Iterable[bytes]) -> None:
        """Callers hear that the actor is up, in this order; what the life before had sent has arrived."""
        self.up = True
        for caller in map(self.callers.__getitem__, order):
            if caller.alive:
                while self.to_caller[caller.name]:
                    caller.hear(self.to_caller[caller.name].popleft())
                caller.drained(self.life)

    def kill(self, lost: dict[bytes, int]) -> None:
        """The process dies; of each caller's messages the last ``lost`` are lost with it."""
        for name, queue in self.to_caller.items():
            for _ in range(min(lost.get(name, 0), len(queue))):
                queue.pop()
        self.restart()

    def step(self) -> bool:
        """Run the next entry of the queue."""
        entry = self.tasks.start()
        if entry is None:
            return False
        lease, sequence, work = entry
        if type(work) is CheckpointMark:
            self.flush()
            taken = self.logged.begin()
            if taken is not None:
                name = f"{self.life}-{taken.start}"
                self.disk[name] = taken, list(self.state)
                self.logged.saved({"file": name})
        elif type(work) is Replayed:
            self.replayed += 1
            self.logged.replay_ended(work, self.apply(work.task[3]))
        else:
            lease.ends.extend((sequence, self.apply(work[3])))
        self.tasks.finish()
        return True

    def apply(self, x: list[Any]) -> list[Any]:
        assert tuple(x) not in self.state, "a call is applied twice"
        self.state.append(tuple(x))
        return list(self.state)

    def flush(self) -> None:
        self.logged.flush([lease for lease in self.tasks.leases.values() if lease.ends])

    # ------------------------------------------------------------ messages

    def deliver_to_actor(self, name: bytes) -> None:
        if not self.to_actor[name] or self.lost:
            return
        message = self.to_actor[name].popleft()
        {m.PushLogged: self.logged.on_push, m.OfferCalls: self.logged.on_offer,
         m.AskCheckpoint: self.logged.on_ask}[type(message)](name, message)

    def deliver_to_caller(self, name: bytes) -> None:
        if self.to_caller[name] and self.callers[name].alive and self.up:
            self.callers[name].hear(self.to_caller[name].popleft())

    def deliver_to_home(self) -> None:
        if not self.to_home:
            return
        message = self.to_home.popleft()
        if type(message) is m.StateLost:
            self.lost = message.reason
        elif type(message) is m.CallerSeen:
            alive = self.callers[message.caller].alive
            if alive:
                self.known.add(message.caller)
            self.from_home.append(m.CallerNews(ACTOR, self.life, message.caller, not alive))
        else:
            self.checkpoint = message.place
            self.from_home.append(m.CheckpointSaved(ACTOR, self.life, message.start))

    def deliver_from_home(self) -> None:
        if self.from_home:
            message = self.from_home.popleft()
            (self.logged.on_saved if type(message) is m.CheckpointSaved else self.logged.on_caller_news)(b"", message)

    def end_caller(self, name: bytes) -> None:
        self.callers[name].alive = False
        self.to_actor[name].clear()
        self.known.discard(name)
        self.from_home.append(m.CallerNews(ACTOR, self.life, name, True))

    def settle(self) -> None:
        """Deliver and run everything."""
        if not self.up:
            self.ready(self.callers)
        busy = True
        while busy and not self.lost:
            busy = self.step()
            self.flush()
            for name in self.callers:
                busy |= bool(self.to_actor[name]) or bool(self.to_caller[name] and self.callers[name].alive)
                self.deliver_to_actor(name)
                self.deliver_to_caller(name)
            busy |= bool(self.to_home or self.from_home)
            self.deliver_to_home()
            self.deliver_from_home()

    # ------------------------------------------------------------ the claim

    def check(self) -> None:
        self.logged.check()
        self.tasks.check()
        if self.lost:
            assert not all(caller.alive for caller in self.callers.values()), f"all callers live: {self.lost}"

    def check_end(self) -> None:
        """Everything is delivered: each call of a living caller has its result, and the state has what it shows."""
        if self.lost:
            return
        for caller in self.callers.values():
            if caller.alive:
                assert len(caller.seen) == caller.made, f"{caller.name!r} lacks results"
                for x, shown in caller.seen.items():
                    assert tuple(shown[-1]) == (caller.name, x)
                    assert [tuple(one) for one in shown] == self.state[:len(shown)], "an acknowledged state is gone"
                mine = [number for name, number in self.state if name == caller.name]
                assert mine == sorted(mine) == list(range(1, caller.made + 1)), "calls of one caller are out of order"
