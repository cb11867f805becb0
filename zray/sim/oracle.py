"""The properties of a simulated cluster, and the excuses for errors.

Programs are deterministic, so each object has one right value, known at its submission.  An error in its place needs an
excuse: an event of the schedule (a crash, a cancellation, a kill).  "freed" has no excuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.base.argument_errors import innermost
from zray.owner.failures import failure_in
from zray.owner.references import NOT_ADOPTED
from zray.owner.unhandled import SHOWN
from zray.sim.applied import Applied
from zray.sim.failure import Violation
from zray.sim.programs import APPLIED, FAILS, retried_errors
from zray.sim.views import CoreView, CoreViews, NodeView
from zray.wire.messages import FAILED

# Root of an error -> what must have happened.
EXCUSES = {
    "raised": (), "cancelled": ("cancel",), "worker_crashed": ("crash", "node"), "owner_died": ("crash", "node"),
    "actor_died": ("crash", "kill", "node", "group"), "actor_unavailable": ("crash", "kill", "node", "group"),
    "raylet_died": ("node",), "oom": ("memory",),
    "task_pg_removed": ("group", "node"), "actor_pg_removed": ("group", "node"),  # a job ends with its driver's node
    "reconstruction": ("lost",), "reconstruction_attempts": ("lost",), "reconstruction_evicted": ("lost",),
    "object_lost": ("crash", "node"), "unschedulable": ("node",), "actor_unschedulable": ("node",),
}


class Oracle:
    """The truth about every object, task and call of one run.

    cores         the core processes that live
    serving       the nodes that have joined and live
    is_starved    whether a node's daemon gets no turn while its process answers
    """

    def __init__(self, cores: CoreViews, serving: Callable[[], Iterable[NodeView]],
                 is_starved: Callable[[bytes], bool]) -> None:
        self._cores, self._serving, self._is_starved = cores, serving, is_starved
        self.values: dict[bytes, Any] = {}
        self.programs: dict[bytes, list[Any]] = {}
        self.runs: dict[bytes, list[tuple[Any, int]]] = {}  # task -> [(worker, attempt), ...]
        self.owners: dict[tuple[bytes, int], bytes] = {}  # (task, attempt) that has started -> its owner
        self.happened: dict[str, int] = {"crash": 0, "cancel": 0, "kill": 0, "node": 0, "group": 0,
                                         "lost": 0, "memory": 0}
        self.actors: dict[bytes, bytes] = {}  # actor -> object of its life
        self.calls: dict[tuple[bytes, bytes, str], int] = {}  # (actor's worker, caller, group) -> last started
        self.lives: dict[tuple[bytes, int], bytes] = {}  # (actor, life) -> its worker
        self.newest: dict[bytes, int] = {}  # actor -> newest life that has acted
        self.names: dict[bytes, str] = {}  # detached actor -> name
        self.condemned: set[bytes] = set()  # nodes that some other node knows to be dead
        self.served: list[tuple[Any, bytes]] = []  # (worker, owner) of every start
        self.retried: set[tuple[bytes, int]] = set()  # (task, attempt) that raised an exception to be retried
        self.seen = 0
        self.applied = Applied(self.is_lost, self._lives)

    # ------------------------------------------------------------ what was asked for

    def expect(self, oid: bytes, value: Any) -> None:
        self.values[oid] = value

    def value(self, oid: bytes) -> Any:
        return self.values.get(oid)  # None: the life of an actor, which is never ready

    def submitted(self, task: bytes, program: list[Any]) -> None:
        if task in self.programs:
            raise Violation(f"two tasks have the id {task.hex()}")
        self.programs[task] = program

    def detached(self, actor: bytes, name: str) -> None:
        self.names[actor] = name

    def dropped(self, node: NodeView, job: int) -> None:
        """A node forgets the functions of a job, for the whole cluster."""
        for core in self._cores.values():
            actor = getattr(core, "actor", None)
            if core.job == job and actor is not None and actor.actor in self.names and not self.is_lost(core) \
                    and self._row_lives(core, actor.actor):
                raise Violation(f"{node.incarnation!r} drops job {job}, of which {core.incarnation!r} is an actor")

    def _row_lives(self, core: CoreView, actor: bytes) -> bool:
        """Its home has not ended it: its process may be about to hear of that."""
        for node in self._serving():
            found = node.machine.actors.actors.get(actor)
            if found is not None:
                return found.state != "DEAD" and found.worker == core.incarnation
        return False

    # ------------------------------------------------------------ nodes

    def condemn(self, node: bytes) -> None:
        """The nodes table has it dead: what still runs there nobody waits for."""
        if self._is_starved(node):
            raise Violation(f"{node!r} was declared dead while its process answered")
        self.condemned.add(node)
        self.happened["node"] += 1

    def node_ended(self, node: NodeView) -> None:
        self.happened["node"] += 1

    def heard_of_the_dead(self, node: NodeView, peer: bytes) -> None:
        """A daemon has taken a message from that process, whose node it knows to be dead."""
        raise Violation(f"{node.incarnation!r} listens to {peer!r}, whose node it has declared dead")

    def _lives(self, process: bytes) -> bool:
        core = self._cores.get(process)
        return core is not None and not self.is_lost(core)

    def is_lost(self, core: CoreView) -> bool:
        """Others may behave as if it were dead."""
        return core.crashed or core.node_is_lost or not core.host.alive or core.home in self.condemned

    def created(self, actor: bytes, life: bytes) -> None:
        self.actors[actor] = life

    # ------------------------------------------------------------ runs

    def started(self, worker: Any, owner: bytes, sequence: int, task: list[Any], group: str = "") -> None:
        if task[0] not in self.programs:
            raise Violation(f"task {task[0].hex()} was never submitted")
        self.served.append((worker, owner))
        runs = self.runs.setdefault(task[0], [])
        if worker.actor is not None:
            self._one_life(worker)
            if not self.happened["lost"] and any(  # else a result may be made again
                    other is worker for other, attempt in runs if (task[0], attempt) not in self.retried):
                raise Violation(f"call {task[0].hex()} runs twice in one life of its actor")
            if self.calls.get((worker.incarnation, owner, group), 0) >= sequence:
                raise Violation(f"calls of {owner.hex()} run out of order")
            self.calls[worker.incarnation, owner, group] = sequence
        elif not self.is_lost(worker) and not self.happened["lost"] and (  # else a result may be made again
                other := next((other for other, attempt in runs if self._counts(other, task[0], attempt)), None)):
            raise Violation(f"task {task[0].hex()} ran on {other.incarnation.hex()}, which lives, and runs again")
        if any(attempt > task[1] for _, attempt in runs) and not self.is_lost(worker):
            raise Violation(f"an old attempt of {task[0].hex()} starts after a newer one")
        runs.append((worker, task[1]))
        self.owners[task[0], task[1]] = owner

    def _counts(self, worker: Any, task: bytes, attempt: int) -> bool:
        """Whether that run of a task forbids another one: its result is, or will be, where its owner finds it.

        A small result ends with its owner.  Whoever adopts the task runs it again, on any worker, when the run is over.
        """
        if self.is_lost(worker) or (task, attempt) in self.retried:
            return False
        return self._lives(self.owners[task, attempt]) or (task, attempt) in worker.runs

    def _one_life(self, worker: Any) -> None:
        """A life of an actor is one process, and it is over before the next one begins."""
        actor, life = worker.actor.actor, worker.actor.life
        if self.lives.setdefault((actor, life), worker.incarnation) != worker.incarnation:
            raise Violation(f"life {life} of actor {actor.hex()} is two processes")
        if life < self.newest.get(actor, 0) and not self.is_lost(worker):
            raise Violation(f"life {life} of actor {actor.hex()} goes on after a newer one has begun")
        self.newest[actor] = max(life, self.newest.get(actor, 0))

    def ended(self, worker: Any, owner: bytes, task: list[Any], result: Any) -> None:
        failure = failure_in(result)
        if failure is not None and failure[1] == "dependency_lost":
            self.retried.add((task[0], task[1]))
        if failure is not None and failure[1] == "task_error" and retried_errors(self.programs[task[0]]):
            self.retried.add((task[0], task[1]))

    # ------------------------------------------------------------ values

    def observe(self, core: CoreView, record: Any) -> bool:
        """A process looks at a ready object: right value, or an error that has an excuse.  True for a value."""
        return self.observe_value(core, record.oid, record.value)

    def observe_value(self, core: CoreView, oid: bytes, value: Any) -> bool:
        """The same of a wire value."""
        self.seen += 1
        right = self.values.get(oid, FAILS)  # an error after the last item of a stream is an item
        if type(value) is list and value[0] == FAILED:
            if core.home not in self.condemned:  # else its objects and holds are void
                self._excused(oid, right, value)
            return False
        number = core.peek(value)
        if right == APPLIED:
            self.applied.observed(core, oid, number)
        elif number != right:
            raise Violation(f"object {oid.hex()} is {number}, and should be {right}: {self.programs.get(oid[:24])}")
        if oid[:24] in self.programs and oid[:24] not in self.runs:
            raise Violation(f"task {oid[:24].hex()} has a value and never ran")
        return True

    def _excused(self, oid: bytes, right: Any, value: list[Any]) -> None:
        value = innermost(value)
        root = value[2].get("root", value[1]) if type(value[2]) is dict else value[1]
        if root not in EXCUSES:
            raise Violation(f"object {oid.hex()} failed with {value[1]} {root!r}: {value[2]}")
        if root == "owner_died" and value[2].get("recipe") == NOT_ADOPTED:
            raise Violation(f"object {oid.hex()} failed, and a process knew how to make it")
        if root == "raised" and right != FAILS and not self.happened["cancel"]:  # which ends retries
            raise Violation(f"object {oid.hex()} raised, and should be {right}")
        needs = EXCUSES[root]
        if needs and not any(self.happened[what] for what in needs):
            raise Violation(f"object {oid.hex()} failed with {root!r}, and there was no {' or '.join(needs)}")

    def unhandled(self, core: CoreView, failures: list[list[Any]]) -> None:
        """Failures that a process shows, because nobody can look at them any more."""
        for failure in failures:
            if failure[1] not in SHOWN and failure[1] != "actor_died":
                raise Violation(f"{core.incarnation!r} shows a failure that nobody has to mend: {failure}")

    # ------------------------------------------------------------ at any time

    def check_references(self) -> None:
        """Nothing is freed while a live process holds it, and nothing that was adopted has two owners."""
        cores = self._cores
        for core in cores.values():
            for oid in () if self.is_lost(core) else core.adoption.adopted:
                for other in cores.values():
                    if other is not core and not self.is_lost(other) and other.owns(oid):
                        raise Violation(f"{core.incarnation!r} and {other.incarnation!r} own {oid.hex()}")
            for record in core.refs.borrowed.values():
                owner = cores.get(record.owner)
                if owner is not None and record.oid not in owner.refs.owned and not core.abandoned and not (
                        record.oid in core.adoption.ownerless or record.moved and not record.confirmed) and not (
                        self.is_lost(core) or self.is_lost(owner)):
                    raise Violation(f"{core.incarnation!r} holds {record.oid.hex()}, which its owner freed")
            for entry in () if self.is_lost(core) else core.refs.owned.values():
                if type(entry.value) is list and entry.value[0] == FAILED and entry.value[1] == "freed":
                    raise Violation(f"{core.incarnation!r} got back a reference to {entry.oid.hex()}, which it freed")
