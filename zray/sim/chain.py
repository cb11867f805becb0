"""A chain of replicas, its clients and the decider of its configurations, in one simulated network.

The decider stands for the paper's master: it grants the tail its lease, removes members, lets spares join and promotes
them.  It is told of failures by the test; a member that may still live is removed only after its lease has run out.
Everything it says goes over the same faulty network, and is said again every tick.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from zray.gcs import tables
from zray.gcs.chain import ChainReplica, Out
from zray.gcs.client import Call, GcsClient
from zray.gcs.config import ChainConfig
from zray.gcs.state import Update
from zray.gcs.tables import Change
from zray.sim.linearizability import UNKNOWN, Operation
from zray.sim.network import Faults, SimNetwork

TICK_S = 0.02
LEASE_S = 0.2
DECIDER = b"decider"
PREFIX = b"kv/"


def register_step(state: Any, action: tuple) -> tuple[Any, Any]:
    """Model of one row of the tables, for zray.sim.linearizability."""
    kind = action[0]
    if kind == "get":
        return state, state
    if kind == "put":
        return action[1], state is not None
    if kind == "delete":
        return None, state is not None
    expected, new = action[1:]
    return (new, (True, new)) if state == expected else (state, (False, state))


class RecordingReplica(ChainReplica):
    """A production replica that remembers a digest of its history after each update."""

    def __init__(self, me: bytes, config: ChainConfig, chain: SimChain) -> None:
        self.chain = chain
        self.digests: dict[int, bytes] = {0: b""}
        super().__init__(me, config)

    def _append(self, update: Update, now: float) -> Out:
        out = super()._append(update, now)
        previous = self.digests[self.applied - 1]
        self.digests[self.applied] = blake2b(previous + repr(update).encode(), digest_size=16).digest()
        log = self.state.changes.changes
        if log and log[-1].version == self.applied:
            self.chain.changes[self.digests[self.applied]] = log[-1]
        return out

    def _wipe(self) -> None:
        super()._wipe()
        self.digests = {0: b""}

    def _restore(self, raw: bytes, sequence: int) -> Out:
        out = super()._restore(raw, sequence)
        if self.applied == sequence:
            source = self.chain.replicas[self._predecessor]
            self.digests = {n: digest for n, digest in source.digests.items() if n <= sequence}
        return out


class SimClient:
    """A client that issues random operations one after the other and records what it saw."""

    def __init__(self, name: bytes, chain: SimChain, operations: int) -> None:
        self.name = name
        self.chain = chain
        self.left = operations
        self.history: list[Operation] = []
        self.seen: list[tuple[int, bool, list[Change]]] = []  # (version, reset, changes) of the watch
        self.last: dict[bytes, bytes | None] = {}
        self._open: tuple[bytes, tuple, float] | None = None
        self.client = GcsClient(name, lambda peer, message: chain.net.send(name, peer, message),
                                chain.config.members, chain.config.epoch)
        self.watch = self.client.watch(PREFIX, self._on_changes)

    @property
    def finished(self) -> bool:
        return self.left == 0 and self._open is None

    def on_message(self, source: bytes, message: Any) -> None:
        if source == DECIDER:
            self.client.configured(message)
        else:
            self.client.on_message(source, message)

    def next(self) -> None:
        """Issue the next operation."""
        self.left -= 1
        random = self.chain.net.random
        key = PREFIX + b"%d" % random.randrange(self.chain.keys)
        kind = random.choice(("get", "get", "put", "put", "cas", "delete"))
        value = b"%s-%d" % (self.name, self.left)
        if kind == "put":
            self.issue(key, ("put", value), lambda done: self.client.put(key, value, done))
        elif kind == "cas":
            expected = self.last.get(key)
            self.issue(key, ("cas", expected, value),
                       lambda done: self.client.compare_and_set(key, expected, value, done))
        elif kind == "delete":
            self.issue(key, ("delete",), lambda done: self.client.delete(key, done))
        else:
            self.issue(key, ("get",), lambda done: self.client.get(key, done))

    def issue(self, key: bytes, action: tuple, start: Any) -> None:
        self._open = (key, action, self.chain.net.now)
        start(self._on_done)

    def _on_done(self, call: Call) -> None:
        assert self._open is not None
        key, action, called = self._open
        self._open = None
        value = call.result()
        self.history.append(Operation(key, action, value, called, self.chain.net.now, self.name))
        if action[0] == "get":
            self.last[key] = value
        if self.left:
            self.chain.net.call_at(self.chain.net.now + self.chain.net.random.uniform(0, 0.02), self.next)

    def _on_changes(self, reset: bool, changes: list[Change]) -> None:
        self.seen.append((self.client._watches[self.watch].seen, reset, changes))

    def tick(self) -> None:
        self.client.tick(self.chain.net.now)
        self.client.check()
        self.chain.net.call_at(self.chain.net.now + TICK_S, self.tick)

    def operations(self) -> list[Operation]:
        """The history, an operation without an answer included as unknown."""
        if self._open is None:
            return self.history
        key, action, called = self._open
        return [*self.history, Operation(key, action, None, called, UNKNOWN, self.name)]


class SimChain:
    """Replicas, decider and clients on one SimNetwork; ``check`` after every event that matters."""

    def __init__(self, seed: int, replicas: int = 3, clients: int = 4, operations: int = 25, keys: int = 6,
                 faults: Faults | None = None) -> None:
        self.net = SimNetwork(seed, faults)
        self.keys = keys
        self.config = ChainConfig.first(*(b"r%d" % i for i in range(replicas)))
        self.configs = {self.config.epoch: self.config}
        self.replicas: dict[bytes, RecordingReplica] = {}
        self.changes: dict[bytes, Change] = {}  # what the update that led to this digest changed
        self.committed: dict[int, bytes] = {}  # digest of the history that some tail has answered for
        self.lease_until = 0.0
        self._spares = replicas
        for name in self.config.members:
            self._start_replica(name)
        self.net.register(DECIDER, self._on_report)
        self.net.call_at(0, self._decider_tick)
        self.clients = [SimClient(b"c%d" % i, self, operations) for i in range(clients)]
        for client in self.clients:
            self.net.register(client.name, client.on_message)
            self.net.call_at(0, client.tick)
            self.net.call_at(self.net.random.uniform(0, 0.02), client.next)

    # ------------------------------------------------------------ replicas

    def _start_replica(self, name: bytes) -> None:
        self.replicas[name] = RecordingReplica(name, self.config, self)
        self.net.register(name, lambda source, message: self._on_replica(name, source, message))
        self.net.call_at(self.net.now, self._replica_tick, name)

    def _on_replica(self, name: bytes, source: bytes, message: Any) -> None:
        replica = self.replicas[name]
        if source == DECIDER:
            config, until = message
            out = replica.reconfigure(config, self.net.now)
            replica.grant_lease(config.epoch, until)
        else:
            out = replica.on_message(source, message, self.net.now)
        self._emit(name, out)
        self._observe(replica)

    def _replica_tick(self, name: bytes) -> None:
        if not self.net.alive(name):
            return
        replica = self.replicas[name]
        self._emit(name, replica.tick(self.net.now))
        if replica.joiner_caught_up():
            self.net.send(name, DECIDER, replica.config.epoch)
        self._observe(replica)
        self.net.call_at(self.net.now + TICK_S, self._replica_tick, name)

    def _emit(self, source: bytes, out: Out) -> None:
        for peer, message in out:
            self.net.send(source, peer, message)

    # ------------------------------------------------------------ the decider

    def _decider_tick(self) -> None:
        self.lease_until = self.net.now + LEASE_S
        for name in (*self.config.members, self.config.joining):
            if name:
                self.net.send(DECIDER, name, (self.config, self.lease_until))
        for client in self.clients:
            if self.net.random.random() < 0.05:  # seldom: clients should mostly find out by redirects
                self.net.send(DECIDER, client.name, self.config)
        self.net.call_at(self.net.now + TICK_S, self._decider_tick)

    def _on_report(self, tail: bytes, epoch: int) -> None:
        if epoch == self.config.epoch:
            self._adopt(self.config.promoted())

    def _adopt(self, config: ChainConfig) -> None:
        self.config = config
        self.configs[config.epoch] = config
        self.net.trace("config", config)

    def survivable(self, name: bytes) -> bool:
        """The paper's assumption: somebody who holds every acknowledged write stays."""
        return any(self.net.alive(other) and self.replicas[other].established and other != name
                   for other in self.config.members)

    def crash(self, name: bytes) -> None:
        """Fail-stop, seen by the decider a little later."""
        self.net.crash(name)
        self.net.call_at(self.net.now + self.net.random.uniform(0.01, 0.1), self._remove, name)

    def expel(self, name: bytes) -> None:
        """A member cut off but alive: the decider stops its lease, and removes it when that has run out."""
        self.net.isolate(name)
        self.net.call_at(max(self.net.now, self.lease_until) + 0.001, self._remove, name)

    def _remove(self, name: bytes) -> None:
        if name == self.config.joining or (name in self.config.members and len(self.config.members) > 1):
            self._adopt(self.config.without(name))

    def add(self, name: bytes | None = None) -> bytes:
        """Let a new replica, or one that was removed before, join behind the tail."""
        if self.config.joining:
            return b""
        if name is None:
            name = b"r%d" % self._spares
            self._spares += 1
            self._start_replica(name)
        self._adopt(self.config.join(name))
        return name

    # ------------------------------------------------------------ invariants

    def _observe(self, replica: RecordingReplica) -> None:
        """Called after every event at a replica."""
        replica.check()
        if replica.serving:
            digest = replica.digests[replica.committed]
            assert self.committed.setdefault(replica.committed, digest) == digest, "two histories were answered for"

    def check(self) -> None:
        """The two invariants of section 3.2, between neighbours that are in the same epoch."""
        members = [self.replicas[name] for name in self.config.members if self.net.alive(name)]
        for before, after in zip(members, members[1:], strict=False):
            if not (before.config.epoch == after.config.epoch == self.config.epoch and after.established):
                continue
            assert after.applied <= before.applied, "Update Propagation Invariant"
            assert after.digests[after.applied] == before.digests[after.applied], "Update Propagation Invariant"
            assert before._sent_base <= after.applied, "Inprocess Requests Invariant"

    def settle(self, seconds: float = 20.0) -> None:
        """Heal everything and demand that all clients finish and all replicas and watches agree."""
        self.net.heal()
        assert self.net.run_until(self.net.now + seconds, self._settled), self.describe()
        self.check()

    def _settled(self) -> bool:
        members = [self.replicas[name] for name in self.config.members]
        last = members[0].applied
        return (all(client.finished for client in self.clients)
                and all(r.applied == r.committed == last and r.established for r in members)
                and all(c.client._watches[c.watch].seen >= self._last_change(members[-1]) for c in self.clients))

    @staticmethod
    def _last_change(replica: ChainReplica) -> int:
        log = replica.state.changes.changes
        return log[-1].version if log else 0

    def committed_changes(self) -> list[Change]:
        """Every change of the history that survived, in order."""
        digests = self.replicas[self.config.tail].digests
        return [self.changes[digests[n]] for n in sorted(digests) if digests[n] in self.changes]

    def final_state(self) -> dict[bytes, bytes]:
        rows = self.replicas[self.config.tail].state.tables.read([tables.LIST, PREFIX, b"", 10_000, True])[0]
        return {key: value for key, value, _ in rows}

    def describe(self) -> str:
        lines = [f"seed {self.net.seed} at {self.net.now:.3f} {self.config}"]
        for name in (*self.config.members, self.config.joining):
            if name:
                r = self.replicas[name]
                lines.append(f"{name!r} alive={self.net.alive(name)} epoch={r.config.epoch} applied={r.applied} "
                             f"committed={r.committed} established={r.established} {dict(r.counters)}")
        lines += [f"{c.name!r} left={c.left} open={c._open} {dict(c.client.counters)}" for c in self.clients]
        return "\n".join(lines)
