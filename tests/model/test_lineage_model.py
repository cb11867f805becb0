"""Lineage against an obvious graph: what is referenced and can be made again comes back, and nothing else runs."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from tests.oracles.lineage_world import LineageWorld
from zray.base.argument_errors import innermost
from zray.owner.lineage import RECIPE_BYTES
from zray.owner.records import DONE, Entry, Task
from zray.wire import messages as m

FAILURES = {"reconstruction", "reconstruction_attempts", "reconstruction_evicted"}


class LineageMachine(RuleBasedStateMachine):
    refs = Bundle("refs")

    @initialize(target=refs, bounded=st.booleans(), stored=st.booleans(), returns=st.sampled_from((1, 2)))
    def begin(self, bounded, stored, returns):
        self.bounded = bounded
        self.world = LineageWorld(RECIPE_BYTES * 5 if bounded else 1 << 30)
        self.held: list[Entry] = [*self.world.submit([], [], stored, False, returns, -1)]
        return multiple(*self.held)

    @rule(ref=refs, all_of_them=st.booleans())
    def lose_and_read(self, ref, all_of_them):
        """The case that all this is about."""
        self.world.drain()
        if all_of_them:
            self.world.store.clear()
        elif type(ref.value) is list and ref.value[0] == m.STORED:
            self.world.store.pop(ref.value[3], None)
        self.read(ref)

    @rule(target=refs, deps=st.lists(refs, max_size=2), nested=st.lists(refs, max_size=1),
          stored=st.sampled_from((True, True, False)), carry=st.booleans(), returns=st.sampled_from((1, 1, 2)),
          retries=st.sampled_from((-1, -1, 3, 1, 0)))
    def submit(self, deps, nested, stored, carry, returns, retries):
        entries = self.world.submit(deps, nested, stored, carry and bool(deps or nested), returns, retries)
        self.held += entries
        return multiple(*entries)

    @rule(target=refs, dep=consumes(refs), retries=st.sampled_from((-1, 3)))
    def replace(self, dep, retries):
        """``x = f.remote(x)``"""
        entry, = self.world.submit([dep], [], True, False, 1, retries)
        self.held.append(entry)
        self.drop(dep)
        return entry

    @rule(target=refs, stored=st.sampled_from((False, False, True)))
    def put(self, stored):
        entry = self.world.put(stored)
        self.held.append(entry)
        return entry

    @rule(ref=consumes(refs))
    def drop(self, ref):
        self.held.remove(ref)
        self.world.refs.unpin(ref)

    @rule(data=st.data())
    def lose(self, data):
        """A value vanishes; nobody says so."""
        if self.world.store:
            del self.world.store[data.draw(st.sampled_from(sorted(self.world.store)))]

    @rule()
    def lose_all(self):
        self.world.store.clear()

    @rule(data=st.data())
    def node_dies(self, data):
        """All its values vanish but those of which there is a copy; new ones go elsewhere."""
        world = self.world
        copied = data.draw(st.booleans())
        world.store = {generation: value for generation, value in world.store.items() if copied and generation % 2}
        world.refs.node_ended(world.node)
        world.nodes += 1

    @rule(ref=refs, stale=st.booleans())
    def report(self, ref, stale):
        """Somebody found it lost, or thinks so of a value that it does not have any more."""
        value = ref.value
        if type(value) is list and value[0] == m.STORED and (stale or value[3] not in self.world.store):
            if stale:
                value = [*value[:3], value[3] + 1_000_000, *value[4:]]
            self.world.submitter.reconstruction.lost(ref, value, "gone")

    @rule(ref=refs)
    def cancel(self, ref):
        if type(ref.task) is Task:
            self.world.submitter.cancel(ref.task, False, False)
            self.world.made[ref.oid[:24]].task.cancelling = None  # the worker here never hears of it

    @rule(steps=st.integers(1, 4))
    def run(self, steps):
        for _ in range(steps):
            self.world.step()

    @rule(ref=refs)
    def read(self, ref):
        world = self.world
        world.drain()
        world.doubt()
        before = Counter({tid: made.runs for tid, made in world.made.items()})
        runs: dict[bytes, None] = {}
        failed = type(ref.value) is list and ref.value[0] == m.FAILED
        possible = None if failed else True if world.readable(ref) else world.needed(ref, runs)
        value = world.read(ref)
        ran = Counter({tid: made.runs for tid, made in world.made.items()}) - before
        if type(value) is list:
            assert failed or innermost(value)[1] in FAILURES, value  # a kept input that is lost fails the task
            assert possible is not True or self.bounded, "it could have been made again"
            world.doubt()
            if ref.oid[:24] in world.made:
                world.doubt_about([world.made[ref.oid[:24]]])
            return
        assert value == world.expected[ref.oid]
        assert possible is not False, "made again from what was not there"
        assert set(ran) <= set(runs) and set(ran.values()) <= {1} if possible is None else ran == Counter(list(runs))
        for record in ref.contained or ():
            assert record.oid in world.refs.owned

    @invariant()
    def sound(self):
        if hasattr(self, "world"):
            self.world.refs.check()
            self.world.submitter.check()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        world = self.world
        for ref in self.held:
            world.refs.unpin(ref)
        world.drain()
        self.sound()
        assert not world.refs.owned, f"objects outlive their last reference: {list(world.refs.owned)}"
        assert not world.store, f"values outlive their last reference: {world.store}"
        assert not world.lineage.recipes and not world.lineage.traced and world.lineage.bytes == 0
        assert not world.submitter.reconstruction.running and not world.refs.unsettled
        assert not world.submitter.reconstruction.restarts and not world.submitter.reconstruction.asked
        assert all(made.task.state == DONE for made in world.made.values())


TestLineage = LineageMachine.TestCase
TestLineage.settings = settings(max_examples=200, stateful_step_count=40)
