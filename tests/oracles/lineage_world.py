"""Workers, stores and users around one owner, and an obvious graph that says what can be made again.

The world runs what the owner pushes, forgets what it frees, and loses values without a word.  The oracle in it knows
the tasks and decides by plain recursion what a read must give, and which tasks must run for that.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from tests.unit.test_owner import ports
from zray.base.config import Config
from zray.base.ends import Ends
from zray.owner.records import Entry, Function, Task
from zray.owner.references import References
from zray.owner.submitter import Submitter
from zray.wire import messages as m
from zray.worker.produced import NOT_PRODUCED, take_arguments
from zray.worker.queue import ServedLease

ME, NODE, WORKER = b"me......", b"node....", b"worker.."


class Made:
    """One submitted task, as the oracle knows it."""

    def __init__(self, task: Task, deps: list[Entry], nested: list[Entry], stored: bool, carry: bool):
        self.task = task
        self.deps = deps
        self.nested = nested
        self.stored = stored
        self.carry = [entry.oid for entry in deps + nested] if carry else []
        self.max_retries = task.retries
        self.runs = 0
        self.unsure = False  # something it needed could not be made: it may have failed, and be forgotten

    @property
    def entries(self) -> list[Entry]:
        return self.task.entry if type(self.task.entry) is list else [self.task.entry]

    def may_run(self) -> bool:
        return self.max_retries < 0 or self.runs - 1 < self.max_retries


class LineageWorld:
    """The owner under test, and everything around it."""

    def __init__(self, bytes_max: int):
        self.refs = References(ME, self, self.free, Ends())
        self.submitter = Submitter(ME, NODE, 1, self, self.refs, Config(lineage_bytes_max=bytes_max),
                                   ports(lambda values, then: self.questions.append((values, then))))
        self.lineage = self.submitter.lineage
        self.key = self.submitter.key_for("key", {}, {}, {}, "f")
        self.fn = Function(b"f" * 20, b"", "f")
        self.fn.run_ns = 1000
        self.store: dict[int, bytes] = {}
        self.freed: set[int] = set()
        self.made: dict[bytes, Made] = {}
        self.puts: dict[bytes, bool] = {}  # oid -> in the store
        self.expected: dict[bytes, bytes] = {}
        self.pushed: list[tuple[int, int, Any]] = []
        self.served: dict[int, ServedLease] = {}
        self.questions: list[Any] = []
        self.nodes = 1
        self.leases = 0
        self.generation = 0
        self.count = 0

    # ---- Net

    def send(self, peer: bytes, message: Any) -> None:
        if type(message) is m.LeaseWant:
            if message.count and not self.submitter.leases:
                self.leases += 1
                grant = m.LeaseGrant(message.key, self.leases, WORKER, "ipc://w", 7, {})
                self.pushed.append((0, 0, grant))
        elif type(message) is m.PushTasks:
            self.pushed += [(message.lease, message.first + i, task) for i, task in enumerate(message.tasks)]

    def connect(self, peer: bytes, endpoint: str) -> None: ...

    def disconnect(self, peer: bytes) -> None: ...

    # ---- the stores

    def free(self, oid: bytes, value: Any, escaped: bool) -> None:
        assert value[3] not in self.freed, "freed twice"
        self.freed.add(value[3])
        self.store.pop(value[3], None)

    def wire(self, oid: bytes, stored: bool) -> Any:
        if not stored:
            return self.expected[oid]
        self.generation += 1
        self.store[self.generation] = self.expected[oid]
        return [m.STORED, 64 * self.generation, 100, self.generation, oid, self.node]

    @property
    def node(self) -> bytes:
        return self.nodes.to_bytes(4, "big") + bytes(4)

    # ---- workers

    def step(self) -> bool:
        """Run the next task that a worker has; False when there is none."""
        self.submitter.pump()
        self.submitter.reconstruction.ask()
        if self.questions:
            values, then = self.questions.pop(0)
            then([[NODE] if value[3] in self.store else [] for value in values])
            return True
        if not self.pushed:
            return False
        lease, seq, task = self.pushed.pop(0)
        if type(task) is m.LeaseGrant:
            self.submitter.on_lease_grant(NODE, task)
            return True
        served = self.served.setdefault(lease, ServedLease(ME, lease))
        ends = [seq, self.run(served, list(task))]
        served.keep_sent(ends)
        self.submitter.on_tasks_done(WORKER, m.TasksDone(lease, ends, 1000))
        return True

    def run(self, lease: ServedLease, task: Any) -> Any:
        if "behind" in (task[5] or {}) and not take_arguments(lease, task):
            return NOT_PRODUCED
        made = self.made[task[0]]
        deps = (task[5] or {}).get("deps", ())
        for value in deps:
            if type(value) is list and value[0] == m.FAILED:
                return value
        lost = [[value[4], value, "gone"] for value in deps if type(value) is list and value[3] not in self.store]
        if lost:
            return [m.FAILED, "dependency_lost", {"oid": lost[0][0], "reason": "gone", "lost": lost}]
        for value, entry in zip(deps, made.deps, strict=True):
            if type(value) is list:
                value = self.store[value[3]]
            assert value == self.expected[entry.oid], "an argument has another value"
        for entry in made.nested:
            assert entry.oid in self.refs.owned, "a reference in an argument leads nowhere"
        for entry in made.deps:
            carry = self.made[entry.oid[:24]].carry if entry.oid[:24] in self.made else []
            assert [record.oid for record in entry.contained or ()] == carry
            assert all(oid in self.refs.owned for oid in carry), "a reference in the value of an argument leads nowhere"
        made.runs += 1
        values = [self.wire(entry.oid, made.stored) for entry in made.entries]
        if made.carry:
            values = [[m.CARRYING, value, [[oid, ME, ""] for oid in made.carry], 0] for value in values]
        return values[0] if len(values) == 1 else [0, values, {}]

    def drain(self) -> None:
        for _ in range(10_000):
            if not self.step():
                return
        raise AssertionError("it runs for ever")

    # ---- users

    def submit(self, deps: list[Entry], nested: list[Entry], stored: bool, carry: bool, returns: int, retries: int
               ) -> list[Entry]:
        self.count += 1
        task = Task(self.count.to_bytes(24, "big"), self.fn, b"arguments", returns, self.key, retries)
        entries = [self.refs.own(task.tid + (i + 1).to_bytes(4, "little"), task) for i in range(returns)]
        task.entry = entries if returns > 1 else entries[0]
        if deps or nested:
            task.deps, task.pins = deps, deps + nested
        digest = blake2b(task.tid + b"".join(self.expected[entry.oid] for entry in deps), digest_size=8).digest()
        for i, entry in enumerate(entries):
            self.expected[entry.oid] = digest + bytes([i])
        self.made[task.tid] = Made(task, list(deps), list(nested), stored, carry)
        self.submitter.submit(task)
        return entries

    def put(self, stored: bool) -> Entry:
        self.count += 1
        oid = self.count.to_bytes(24, "big") + b"\1\0\0\x80"
        self.expected[oid] = oid
        self.puts[oid] = stored
        entry = self.refs.own(oid)
        self.refs.complete(entry, self.wire(oid, stored))
        return entry

    def read(self, entry: Entry) -> Any:
        """The value, or a failure."""
        for _ in range(100):
            self.drain()
            value = entry.value
            assert value is not None, "pending, and nothing runs"
            if type(value) is bytes or value[0] == m.FAILED:
                return value
            if value[3] in self.store:
                return self.store[value[3]]
            failed = self.submitter.reconstruction.lost(entry, value, "gone")
            if failed is not None:
                return failed
        raise AssertionError("made again and again")

    # ---- the oracle

    def readable(self, entry: Entry) -> bool:
        return type(entry.value) is bytes or (entry.value[0] == m.STORED and entry.value[3] in self.store)

    def referenced(self, entry: Entry) -> bool:
        return self.refs.owned.get(entry.oid) is entry

    def needed(self, entry: Entry, runs: dict[bytes, None]) -> bool | None:
        """Add the tasks that must run for this object's value to ``runs``; whether that is possible, None if unsure."""
        made = self.made.get(entry.oid[:24])
        if made is None:
            return False
        if made.task.tid in runs:
            return True
        if not made.may_run() or not made.stored:
            return False
        runs[made.task.tid] = None
        return worst([self.usable(dep, runs, read=True) for dep in made.deps]
                     + [self.usable(nested, runs, read=False) for nested in made.nested]
                     + [None if made.unsure else True])

    def usable(self, entry: Entry, runs: dict[bytes, None], read: bool) -> bool | None:
        if self.referenced(entry):
            return True if not read or self.readable(entry) else self.needed(entry, runs)
        made = self.made.get(entry.oid[:24])
        stored = made.stored if made is not None else self.puts[entry.oid]
        if stored and (made is None or not made.may_run()):
            # It stays in the store, because it cannot be made again.  A reference to it needs no readable value.
            return self.readable(entry) or (False if read else None)
        if stored:
            return self.needed(entry, runs)
        if made is None or not made.carry:
            return True
        return worst([self.usable(inner, runs, read=False) for inner in made.deps + made.nested])

    def doubt(self) -> None:
        """What has failed, and all that it may have needed."""
        work = [made for made in self.made.values() if not made.unsure and any(
            type(entry.value) is list and entry.value[0] == m.FAILED for entry in made.entries)]
        self.doubt_about(work)

    def doubt_about(self, work: list[Made]) -> None:
        while work:
            made = work.pop()
            if not made.unsure:
                made.unsure = True
                work += [self.made[e.oid[:24]] for e in made.deps + made.nested if e.oid[:24] in self.made]


def worst(answers: list[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True
