"""The chain against a dictionary: every interleaving Hypothesis can think of, with messages delivered in any order,
twice or never, members that crash, and new ones that join and are promoted.

The oracle applies each update that a replica appended to a plain dictionary, in order.  It must never see two
histories, never the same request twice, and every answer must be the dictionary's.
"""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zray.gcs.configuration.config import ChainConfig
from zray.gcs.replica.chain import ChainReplica
from zray.gcs.replica.tables import COMPARE_AND_SET, DELETE, GET, PUT
from zray.wire.messages import GcsReply, GcsRequest

KEYS = st.sampled_from([b"kv/a", b"kv/b"])
VALUES = st.sampled_from([b"1", b"2"])
CLIENTS = st.sampled_from([b"client1", b"client2"])
PICK = st.integers(0, 10**6)


def expected_result(rows: dict, op: list, sequence: int):
    """What the tables must answer, and what they must hold afterwards: rows maps key to (value, version)."""
    key = op[1]
    old = rows.get(key)
    if op[0] == PUT:
        rows[key] = (op[2], sequence)
        return [old is not None, sequence]
    if op[0] == DELETE:
        return rows.pop(key, None) is not None
    if (old[0] if old else None) != op[2]:
        return [False, old[0], old[1]] if old else [False, None, 0]
    if op[3] is None:
        rows.pop(key, None)
        return [True, None, 0]
    rows[key] = (op[3], sequence)
    return [True, op[3], sequence]


class Recording(ChainReplica):
    """Remembers its history as a list of updates."""

    def __init__(self, me, config, replicas):
        self.history: list = []
        self.peers = replicas
        super().__init__(me, config)

    def _append(self, update, now):
        self.history.append(update)
        return super()._append(update, now)

    def _wipe(self):
        super()._wipe()
        self.history = []

    def _restore(self, raw, sequence):
        self.history = self.peers[self._predecessor].history[:sequence]
        return super()._restore(raw, sequence)


class Chain(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.config = ChainConfig.first(b"r0", b"r1", b"r2")
        self.replicas: dict[bytes, Recording] = {}
        for name in self.config.members:
            self.replicas[name] = Recording(name, self.config, self.replicas)
            self.replicas[name].grant_lease(1, 1e9)
        self.dead: set[bytes] = set()
        self.bag: list[tuple[bytes, bytes, object]] = []
        self.now = 0.0
        self.numbers = {b"client1": 0, b"client2": 0}
        self.requests: dict[tuple[bytes, int], GcsRequest] = {}
        self.answers: dict[tuple[bytes, int], object] = {}
        self.acknowledged = 0  # length of the longest history that was answered for
        self.committed: list = []
        self.spares = 3

    def alive(self) -> list[bytes]:
        return [name for name in self.replicas if name not in self.dead]

    def emit(self, source: bytes, out) -> None:
        for peer, message in out:
            if peer.startswith(b"client"):
                self.answered(source, peer, message)
            else:
                self.bag.append((source, peer, message))
        self.replicas[source].check()

    def answered(self, source: bytes, client: bytes, message: object) -> None:
        if not isinstance(message, GcsReply):
            return
        key = (client, message.number)
        assert self.answers.setdefault(key, message) == message, "two answers to one request"
        places = [i for i, u in enumerate(self.replicas[source].history) if (u.client, u.number) == key]
        assert len(places) == 1, "applied once"
        self.acknowledged = max(self.acknowledged, places[0] + 1)

    # ------------------------------------------------------------ clients

    @rule(client=CLIENTS, key=KEYS, value=VALUES, old=st.none() | VALUES,
          kind=st.sampled_from([PUT, DELETE, COMPARE_AND_SET]))
    def update(self, client, key, value, old, kind) -> None:
        op = {PUT: [PUT, key, value], DELETE: [DELETE, key], COMPARE_AND_SET: [COMPARE_AND_SET, key, old, value]}[kind]
        self.numbers[client] += 1
        number = self.numbers[client]
        self.requests[client, number] = GcsRequest(number, self.acked(client), op)
        self.bag.append((client, self.config.head, self.requests[client, number]))

    @precondition(lambda self: len(self.requests) > len(self.answers))
    @rule(pick=PICK)
    def retry(self, pick) -> None:
        open_ones = [key for key in self.requests if key not in self.answers]
        client, number = open_ones[pick % len(open_ones)]
        self.bag.append((client, self.config.head, self.requests[client, number]))

    def acked(self, client: bytes) -> int:
        number = 1
        while (client, number) in self.answers:
            number += 1
        return number

    @rule(key=KEYS)
    def read_at_every_replica_that_answers(self, key) -> None:
        for name in self.alive():
            replica = self.replicas[name]
            out = replica.on_message(b"reader", GcsRequest(-1, 0, [GET, key]), self.now)
            for _, message in out:
                if isinstance(message, GcsReply):
                    assert replica.applied >= self.acknowledged, "a read missed an acknowledged write"
                    rows: dict = {}
                    for sequence, u in enumerate(replica.history, start=1):
                        expected_result(rows, u.op, sequence)
                    assert message.result == list(rows.get(key, (None, 0)))

    # ------------------------------------------------------------ network and time

    @precondition(lambda self: self.bag)
    @rule(pick=PICK, keep=st.booleans())
    def deliver(self, pick, keep) -> None:
        place = pick % len(self.bag)
        source, target, message = self.bag[place]
        if not keep:
            del self.bag[place]
        if target in self.replicas and target not in self.dead:
            self.emit(target, self.replicas[target].on_message(source, message, self.now))

    @rule()
    def deliver_in_order(self) -> None:
        bag, self.bag = self.bag, []
        for source, target, message in bag:
            if target in self.replicas and target not in self.dead:
                self.emit(target, self.replicas[target].on_message(source, message, self.now))

    @precondition(lambda self: self.bag)
    @rule(pick=PICK)
    def lose(self, pick) -> None:
        del self.bag[pick % len(self.bag)]

    @rule()
    def tick(self) -> None:
        self.now += 1.0
        for name in self.alive():
            self.emit(name, self.replicas[name].tick(self.now))

    # ------------------------------------------------------------ failures and the decider

    @rule(pick=PICK)
    def crash(self, pick) -> None:
        members = self.config.members
        name = members[pick % len(members)]
        if name in self.dead or not any(self.replicas[m].established for m in members if m not in (name, *self.dead)):
            return  # the assumption of the paper: at most t - 1 fail
        self.dead.add(name)

    @rule()
    def remove_the_dead(self) -> None:
        for name in (*self.config.members, self.config.joining):
            if name in self.dead:
                self.config = self.config.without(name)

    @precondition(lambda self: not self.config.joining and len(self.config.members) < 4)
    @rule()
    def join(self) -> None:
        name = b"r%d" % self.spares
        self.spares += 1
        self.replicas[name] = Recording(name, self.config, self.replicas)
        self.config = self.config.join(name)

    @precondition(lambda self: self.config.joining)
    @rule()
    def promote(self) -> None:
        tail = self.replicas[self.config.tail]
        if self.config.tail not in self.dead and tail.config == self.config and tail.joiner_caught_up():
            self.config = self.config.promoted()

    @rule(pick=PICK)
    def adopt(self, pick) -> None:
        name = self.alive()[pick % len(self.alive())]
        self.emit(name, self.replicas[name].reconfigure(self.config, self.now))
        self.replicas[name].grant_lease(self.config.epoch, 1e9)

    @rule()
    def heal(self) -> None:
        """Everything is delivered for long enough: all open requests are answered, all members agree."""
        self.remove_the_dead()
        for name in self.alive():
            self.emit(name, self.replicas[name].reconfigure(self.config, self.now))
            self.replicas[name].grant_lease(self.config.epoch, 1e9)
        for _ in range(12):
            for client, number in [key for key in self.requests if key not in self.answers]:
                self.bag.append((client, self.config.head, self.requests[client, number]))
            for _ in range(2 * len(self.config.members) + 4):
                self.deliver_in_order()
            self.tick()
        assert len(self.answers) == len(self.requests)
        members = [self.replicas[name] for name in self.config.members]
        assert len({m.state.snapshot() for m in members}) == 1
        assert all(m.established and m.committed == m.applied for m in members)

    # ------------------------------------------------------------ the oracle

    @invariant()
    def what_was_answered_for_is_one_history(self) -> None:
        for name in self.alive():
            replica = self.replicas[name]
            known = replica.history[:replica.committed]
            shared = min(len(known), len(self.committed))
            assert known[:shared] == self.committed[:shared], "two histories"
            if len(known) > len(self.committed):
                self.committed = list(known)
        assert len(self.committed) >= self.acknowledged or not any(self.replicas[n].serving for n in self.alive())

    def teardown(self) -> None:
        rows: dict = {}
        for sequence, u in enumerate(self.committed, start=1):
            result = expected_result(rows, u.op, sequence)
            answer = self.answers.get((u.client, u.number))
            assert answer is None or (answer.error, answer.result) == ("", result)
        requests = [(u.client, u.number) for u in self.committed]
        assert len(set(requests)) == len(requests), "an update was applied twice"


Chain.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestChain = Chain.TestCase
