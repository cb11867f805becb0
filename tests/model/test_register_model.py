"""The configuration register: messages in any order, twice or never, proposers that compete, voters that change, time
that jumps, clocks with different zeros and speeds as different as the leases allow.

Claims: one configuration a generation; it has one voter more or one less than the one before, at most; a node never
relies on a lease for a shard of which it believes to be the tail while a decided configuration has taken it out of that
chain (unless it was named as freed).  Tails move: another node becomes the tail behind them, and then they leave.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zray.gcs.configuration.config import ChainConfig, ClusterConfig
from zray.gcs.configuration.register import LEASE_S, PREPARE_S, PROMISE_S, Acceptor, Proposer, TailLease
from zray.wire.messages import (
    ConfigIs,
    Heartbeat,
    LeaseAsk,
    LeasePromise,
    RegisterAccept,
    RegisterAccepted,
    RegisterPrepare,
    RegisterPromise,
    RegisterRefused,
)

NAMES = [b"n%d" % i for i in range(5)]
NODE = st.sampled_from(NAMES)
PICK = st.integers(0, 10**6)
CHAIN = ChainConfig(1, tuple(NAMES), (1,) * 5)
CHAINS = (CHAIN, ChainConfig(1, tuple(NAMES[3::-1]), (1,) * 4))
# The clocks of the first and the last differ in speed by just less than a lease allows.
SPEEDS = [1.0 + 0.999 * (PROMISE_S / LEASE_S - 1.0) * place / 4 for place in (0, 3, 1, 2, 4)]
STEPS = ["", "move", "shrink"]


def moved(chain: ChainConfig) -> ChainConfig:
    """The head has become the tail, as after a removal, a join and a promotion."""
    return chain._replace(epoch=chain.epoch + 1, members=(*chain.members[1:], chain.head))


class Register(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        first = ClusterConfig(1, tuple(NAMES[:3]), CHAINS)
        self.now = 0.0
        self.acceptors = {name: Acceptor(name, first) for name in NAMES}
        self.proposers = {name: Proposer(name) for name in NAMES}
        self.leases = {name: TailLease(name) for name in NAMES}
        self.decided = {1: first}
        self.bag: list[tuple[bytes, bytes, object]] = []
        self.freed: set[bytes] = set()

    def clock(self, name: bytes) -> float:
        place = NAMES.index(name)
        return self.now * SPEEDS[place] + 1000.0 * place

    def emit(self, source: bytes, out) -> None:
        self.bag += [(source, target, message) for target, message in out]

    def learn(self, name: bytes, config: ClusterConfig) -> None:
        if self.acceptors[name].learn(config, self.clock(name)):
            self.emit(name, self.acceptors[name].answer_early(self.clock(name)))
        base = self.proposers[name].base
        if base is not None and base.generation < self.acceptors[name].config.generation:
            self.proposers[name].abandon()

    def handle(self, source: bytes, name: bytes, message) -> None:
        acceptor, proposer, now = self.acceptors[name], self.proposers[name], self.clock(name)
        if isinstance(message, RegisterPrepare):
            base = ClusterConfig.parse(message.base)
            self.learn(name, base)
            self.emit(name, acceptor.on_prepare(source, message, base))
        elif isinstance(message, RegisterAccept):
            base = ClusterConfig.parse(message.base)
            self.learn(name, base)
            self.emit(name, acceptor.on_accept(source, message, base, ClusterConfig.parse(message.value), now))
        elif isinstance(message, RegisterPromise):
            self.emit(name, proposer.on_promise(source, message, now))
        elif isinstance(message, RegisterAccepted):
            config = proposer.on_accepted(source, message)
            if config is not None:
                known = self.decided.setdefault(config.generation, config)
                assert known == config, "two configurations of one generation"
                self.learn(name, config)
        elif isinstance(message, RegisterRefused):
            proposer.on_refused(source, message, now)
        elif isinstance(message, ConfigIs):
            self.learn(name, ClusterConfig.parse(message.config))
        elif isinstance(message, LeaseAsk):
            self.emit(name, acceptor.on_lease(source, message, now))
        elif isinstance(message, Heartbeat):
            acceptor.heard_adopted(source, message.generation)
        elif isinstance(message, LeasePromise):
            self.leases[name].on_promise(source, message)
        acceptor.check()

    # ------------------------------------------------------------ proposals and leases

    @rule(knows=NODE, place=PICK, voter=st.none() | NODE, step=st.sampled_from(STEPS), pick=PICK,
          freed=st.sampled_from([False, False, True]))
    def propose(self, knows, place, voter, step, pick, freed) -> None:
        """``voter`` becomes one, or is one no more; one chain moves its tail, or loses a member."""
        base = self.acceptors[knows].config
        name = base.voters[place % len(base.voters)]
        if self.acceptors[name].config != base:
            return
        shard = pick % 2
        chain = base.chains[shard]
        out = chain.members[pick // 2 % len(chain.members)]
        shrinks = step == "shrink" and len(chain.members) > 1
        freed = freed and shrinks
        if freed:
            self.freed.add(out)
            self.leases[out].release()
        after = chain.without(out) if shrinks else moved(chain) if step == "move" else chain
        chains = (*base.chains[:shard], after, *base.chains[shard + 1:])
        voters = base.voters if voter is None else tuple(other for other in base.voters if other != voter)
        if voter is not None and voter not in base.voters:
            voters = (*base.voters, voter)
        value = ClusterConfig(base.generation + 1, voters or base.voters, chains, (out,) if freed else ())
        self.emit(name, self.proposers[name].propose(base, value, self.clock(name)))

    @rule(knows=NODE, voters=st.lists(NODE, min_size=1, max_size=4, unique=True), round_=st.integers(1, 50))
    def somebody_asks_for_a_leap(self, knows, voters, round_) -> None:
        """A proposer that is wrong, or of another version."""
        base = self.acceptors[knows].config
        value = base._replace(generation=base.generation + 1, voters=tuple(voters))
        if len(set(base.voters) ^ set(voters)) > 1:
            with pytest.raises(ValueError, match="no step"):
                Proposer(knows).propose(base, value, self.clock(knows))
            message = RegisterAccept(round_, base.pack(), value.pack())
            self.emit(knows, [(name, message) for name in NAMES])

    @rule(knows=NODE, shard=st.integers(0, 1))
    def a_tail_asks_for_a_lease(self, knows, shard) -> None:
        tail = self.acceptors[knows].config.chains[shard].tail
        config = self.acceptors[tail].config
        if tail in config.reading and tail not in self.freed:
            self.emit(tail, self.leases[tail].ask(config, self.clock(tail)))

    @rule(name=NODE)
    def a_node_says_what_it_has_adopted(self, name) -> None:
        beat = Heartbeat(self.acceptors[name].config.generation, [], [], [], False)
        self.emit(name, [(other, beat) for other in NAMES])

    @rule(name=NODE)
    def ask_again(self, name) -> None:
        self.emit(name, self.proposers[name].tick(self.clock(name) + 1.0))

    # ------------------------------------------------------------ network and time

    @precondition(lambda self: self.bag)
    @rule(picks=st.lists(PICK, min_size=1, max_size=15), keep=st.sampled_from([False, False, True]))
    def deliver(self, picks, keep) -> None:
        for pick in picks:
            if self.bag:
                place = pick % len(self.bag)
                message = self.bag[place]
                if not keep:
                    del self.bag[place]
                self.handle(*message)

    @rule(name=NODE, lose=st.booleans())
    def deliver_what_is_for(self, name, lose) -> None:
        bag, self.bag = self.bag, []
        for message in bag:
            if message[1] != name:
                self.bag.append(message)
            elif not lose:
                self.handle(*message)

    def deliver_all(self) -> None:
        for _ in range(4):
            bag, self.bag = self.bag, []
            for message in bag:
                self.handle(*message)

    @precondition(lambda self: self.bag)
    @rule(pick=PICK)
    def lose(self, pick) -> None:
        del self.bag[pick % len(self.bag)]

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.3]))
    def pass_time(self, seconds) -> None:
        self.now += seconds

    # ------------------------------------------------------------ claims

    @invariant()
    def nobody_relies_on_a_lease_after_its_removal(self) -> None:
        newest = self.decided[max(self.decided)]
        for name, lease in self.leases.items():
            if lease.until > self.clock(name):
                for shard in self.acceptors[name].config.tails_of(name):
                    assert name in newest.chains[shard].members, "a tail that was removed may answer reads"

    @invariant()
    def one_voter_comes_or_goes_at_a_time(self) -> None:
        for generation, config in self.decided.items():
            before = self.decided.get(generation - 1, config)
            assert len(set(before.voters) ^ set(config.voters)) <= 1
        for acceptor in self.acceptors.values():
            assert acceptor.accepted is None or acceptor.config.may_become(acceptor.accepted[1])

    @invariant()
    def everybody_knows_only_what_was_decided(self) -> None:
        for acceptor in self.acceptors.values():
            assert self.decided[acceptor.config.generation] == acceptor.config

    def teardown(self) -> None:
        """With no more faults and one proposer, the next generation is decided."""
        self.bag.clear()
        self.now += 1.0
        newest = self.decided[max(self.decided)]
        for name in NAMES:
            self.learn(name, newest)
        leader = newest.voters[0]
        for _ in range(20):
            if max(self.decided) > newest.generation:
                return
            self.now += 0.3
            self.emit(leader, self.proposers[leader].propose(newest, newest._replace(
                generation=newest.generation + 1, freed=()), self.clock(leader)))
            self.deliver_all()
        raise AssertionError("nothing is decided")


Register.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRegister = Register.TestCase


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_long_random_schedules(first):
    """Hypothesis tries few of the schedules that need a majority to form in the middle of another attempt."""
    for seed in range(first, first + 100):
        random, world = Random(seed), Register()
        keep = random.choice((0.0, 0.1, 0.3))
        for _ in range(250):
            kind = random.random()
            if kind < 0.7 and world.bag:
                near = random.randrange(len(world.bag)) if random.random() < 0.5 else 0
                message = world.bag[near]
                if random.random() >= keep:
                    del world.bag[near]
                if random.random() > 0.1:
                    world.handle(*message)
            elif kind < 0.78:
                voter = random.choice(NAMES) if random.random() < 0.4 else None
                world.propose(random.choice(NAMES), random.randrange(5), voter, random.choice(STEPS),
                              random.randrange(10), random.random() < 0.1)
                if random.random() < 0.1:
                    world.somebody_asks_for_a_leap(random.choice(NAMES), random.sample(NAMES, 3),
                                                   random.randint(1, 9))
            elif kind < 0.86:
                world.a_tail_asks_for_a_lease(random.choice(NAMES), random.randrange(2))
            elif kind < 0.9:
                world.a_node_says_what_it_has_adopted(random.choice(NAMES))
            elif kind < 0.96:
                world.pass_time(random.choice((0.01, 0.05, 0.1)))
            else:
                world.ask_again(random.choice(NAMES))
            world.nobody_relies_on_a_lease_after_its_removal()
            world.one_voter_comes_or_goes_at_a_time()
            world.everybody_knows_only_what_was_decided()
        world.teardown()


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_a_tail_that_learns_late_reads_nothing_after_its_removal(first):
    """Many decisions in a row; one node hears of few of them, but its requests for leases and the promises arrive."""
    for seed in range(first, first + 100):
        random, world = Random(seed), Register()
        late = random.choice(NAMES)
        for _ in range(60):
            asks = late if random.random() < 0.5 else random.choice(NAMES)
            config = world.acceptors[asks].config
            if asks in config.reading and asks not in world.freed:
                world.emit(asks, world.leases[asks].ask(config, world.clock(asks)))
            newest = world.decided[max(world.decided)]
            proposer = random.choice(newest.voters)
            if proposer != late or random.random() < 0.2:
                voter = random.choice(NAMES) if random.random() < 0.3 else None
                world.learn(proposer, newest)
                world.propose(proposer, newest.voters.index(proposer), voter, random.choice(STEPS),
                              random.randrange(10), random.random() < 0.05)
            if random.random() < 0.5:
                world.a_node_says_what_it_has_adopted(random.choice(NAMES))
            for _ in range(random.randrange(1, 6)):
                bag, world.bag = world.bag, []
                random.shuffle(bag)
                for message in bag:
                    is_news = isinstance(message[2], (RegisterPrepare, RegisterAccept, ConfigIs))
                    if message[1] == late and is_news and random.random() < 0.9:
                        continue
                    if random.random() < 0.15:
                        world.bag.append(message)
                    else:
                        world.handle(*message)
                world.nobody_relies_on_a_lease_after_its_removal()
            world.pass_time(random.choice((0.0, 0.01, 0.05, 0.1)))
            world.one_voter_comes_or_goes_at_a_time()
        world.teardown()


def test_a_wish_is_offered_when_a_majority_of_its_voters_has_answered():
    """What is accepted by a majority of a, b, c has to be decided, and with a and d dead that would never be."""
    base = ClusterConfig(1, (b"a", b"b", b"c"), (CHAIN,))
    wish = base._replace(generation=2, voters=(b"a", b"b", b"c", b"d"))
    nothing = RegisterPromise(2, 1, 0, b"", [])
    proposer = Proposer(b"b")
    assert {name for name, _ in proposer.propose(base, wish, 0.0)} == set(wish.voters)
    for name in (b"b", b"c"):
        assert proposer.on_promise(name, nothing, 0.0) == []
    assert [type(message) for _, message in proposer.on_promise(b"d", nothing, 0.0)] == [RegisterAccept] * 4

    proposer = Proposer(b"b")
    proposer.propose(base, wish, 0.0)
    for name in (b"b", b"c"):
        proposer.on_promise(name, nothing, 0.0)
    proposer.tick(PREPARE_S)
    assert not proposer.active, "it may wish for something else"

    proposer = Proposer(b"b")
    proposer.propose(base, wish, 0.0)
    proposer.on_promise(b"b", nothing, 0.0)
    accepted = base._replace(generation=2, freed=(b"a",))
    offered = proposer.on_promise(b"c", RegisterPromise(2, 1, 1, b"a", accepted.pack()), 0.0)
    assert all(message.value == accepted.pack() for _, message in offered), "what c knows of is finished"
