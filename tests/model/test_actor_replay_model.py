"""Callers' logs and the actor's replay against the sequential state, with kills between any two steps (Hypothesis)."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.oracles.replay_world import World

NAMES = (b"a", b"b", b"c")
name = st.sampled_from(NAMES)


class Replay(RuleBasedStateMachine):
    """Everything that may happen, in any order."""

    @initialize(every=st.sampled_from([1, 2, 5, 100]), limit=st.sampled_from([1 << 20, 3000]), ready=st.booleans())
    def begin(self, every, limit, ready):
        self.world = World(every, dict.fromkeys(NAMES, limit))
        if ready:
            self.world.ready(NAMES)

    @rule(name=name, count=st.integers(1, 4))
    def call(self, name, count):
        caller = self.world.callers[name]
        for _ in range(count if caller.alive else 0):
            caller.call()

    @rule(name=name, count=st.integers(1, 3))
    def to_actor(self, name, count):
        for _ in range(count):
            self.world.deliver_to_actor(name)

    @rule(name=name)
    def to_caller(self, name):
        self.world.deliver_to_caller(name)

    @rule()
    def to_home(self):
        self.world.deliver_to_home()

    @rule()
    def from_home(self):
        self.world.deliver_from_home()

    @rule(count=st.integers(1, 5), flush=st.booleans())
    def run(self, count, flush):
        if not self.world.lost:
            for _ in range(count):
                self.world.step()
            if flush:
                self.world.flush()

    @rule()
    def timers(self):
        timers, self.world.timers = self.world.timers, []
        for action in timers:
            action()

    @rule(lost=st.dictionaries(name, st.integers(1, 3)))
    def kill(self, lost):
        if not self.world.lost:
            self.world.kill(lost)

    @rule(order=st.permutations(NAMES))
    def ready(self, order):
        if not self.world.up:
            self.world.ready(order)

    @rule()
    def settle(self):
        self.world.settle()
        self.world.check_end()

    @rule(name=name)
    def end_caller(self, name):
        if self.world.callers[name].alive and name != NAMES[0]:
            self.world.end_caller(name)

    @invariant()
    def holds(self):
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self):
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check_end()
            if not self.world.lost:
                self.world.kill({})  # the state can always be made again
                self.world.settle()
                self.world.check_end()


TestReplay = Replay.TestCase
TestReplay.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=1500, deadline=None)
@given(seed=st.integers(0, 1 << 32), every=st.sampled_from([1, 2, 3, 100]), limit=st.sampled_from([1 << 20, 3000]),
       ends=st.booleans())
def test_any_schedule_with_kills_comes_to_the_sequential_state(seed, every, limit, ends):
    """Mostly deliveries and runs, so that more is under way at a kill than a search for short examples finds."""
    random = Random(seed)
    world = World(every, dict.fromkeys(NAMES, limit))
    world.ready(random.sample(NAMES, 3))
    for _ in range(random.randint(10, 80)):
        what, name = random.random(), random.choice(NAMES)
        if what < 0.2 and world.callers[name].alive:
            world.callers[name].call()
        elif what < 0.4:
            world.deliver_to_actor(name)
        elif what < 0.6 and not world.lost:
            world.step()
            if random.random() < 0.7:
                world.flush()
        elif what < 0.75:
            world.deliver_to_caller(name)
        elif what < 0.85:
            world.deliver_to_home()
        elif what < 0.93:
            world.deliver_from_home()
        elif what < 0.98 and not world.lost:
            world.kill({name: random.choice((0, 0, 1, 9)) for name in NAMES})
            if random.random() < 0.8:
                world.ready(random.sample(NAMES, 3))
        elif what > 0.995 and ends and name != NAMES[0]:
            world.end_caller(name)
        world.check()
    for _ in range(2):
        world.settle()
        world.check_end()
        if not world.lost:
            world.kill({})
