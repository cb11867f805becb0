"""Objects and their owners' deaths under every interleaving: one adopter at a time, nothing lost that a holder has."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from fuzz.command import past_failures
from tests.oracles.adoption_world import STEPS, AdoptionWorld, run_schedule


class AdoptionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.data = None
        self.world = AdoptionWorld(lambda choices: self.data.draw(st.sampled_from(choices)))

    @rule(data=st.data(), what=st.sampled_from(STEPS))
    def step(self, data, what):
        self.data = data
        self.world.step(what)

    def teardown(self):
        self.world.end()


TestAdoption = AdoptionMachine.TestCase


def test_schedules_by_seed():
    for seed in (*past_failures("adoption"), *range(300)):
        run_schedule(seed)
