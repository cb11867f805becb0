"""The whole store against a dictionary: what was sealed and not freed can be read; what is viewed never changes.

Real clients, headers, pin tables and table; messages are delivered, threads run and time passes in any order.
"""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.oracles.store_harness import Harness
from zray.store import StoreFull
from zray.store.client import Allocation
from zray.store.node.table import EVICTION_GRACE_S


class StoreMachine(RuleBasedStateMachine):
    overflow_bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self.harness = Harness(capacity=1024 * 1024, arena_step_bytes=256 * 1024, overflow_bytes=self.overflow_bytes)
        self.peers = [self.harness.join() for _ in range(2)]
        self.objects: dict[bytes, tuple[list, bytes, object, bool]] = {}  # oid -> value, content, owner, escaped
        self.views: list[tuple[object, memoryview, bytes]] = []
        self.count = 0

    def pick_peer(self, data):
        return data.draw(st.sampled_from(self.peers), "peer")

    def pick_object(self, data):
        return data.draw(st.sampled_from(sorted(self.objects)), "object")

    @rule(data=st.data(), nbytes=st.sampled_from([1, 100, 3000, 30_000, 200_000, 1_500_000]), escaped=st.booleans())
    def put(self, data, nbytes, escaped):
        """One try: the answer may come later, or never."""
        peer = self.pick_peer(data)
        oid = self.harness.new_oid()
        try:
            found = peer.client.allocate(nbytes, oid)
        except StoreFull:
            return
        if not isinstance(found, Allocation):
            return
        self.count += 1
        content = (self.count.to_bytes(4, "big") * (nbytes // 4 + 1))[:nbytes]
        found.view[:] = content
        if data.draw(st.integers(0, 9), "abandon") == 0:
            found.abandon()
            return
        self.objects[oid] = found.seal(), content, peer, escaped

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def read(self, data):
        oid = self.pick_object(data)
        value, content, maker, escaped = self.objects[oid]
        peer = self.pick_peer(data) if escaped else maker
        view = peer.client.read(value, oid)
        if view is not None:
            assert view.readonly and bytes(view) == content
            self.views.append((peer, view, content))

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def read_to_the_end(self, data):
        """Whatever happened to it, an object that is not freed can be had (or there is no room just now)."""
        oid = self.pick_object(data)
        value, content, maker, escaped = self.objects[oid]
        found = self.harness.get(self.pick_peer(data) if escaped else maker, oid, value)
        if isinstance(found, memoryview):
            assert bytes(found) == content
        else:
            assert found[1] == "store_full" or found[1] == "disk_full" and self.overflow_bytes, found

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def drop_view(self, data):
        self.views.pop(data.draw(st.integers(0, len(self.views) - 1), "view"))

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def free(self, data):
        oid = self.pick_object(data)
        value, _, maker, escaped = self.objects.pop(oid)
        peer = self.pick_peer(data) if escaped else maker
        peer.client.free(oid, value, escaped)

    @rule(data=st.data(), outward=st.booleans())
    def deliver(self, data, outward):
        peer = self.pick_peer(data)
        peer.client.flush()
        if outward and peer.to_node:
            self.harness.step_to_node(peer)
        elif not outward and peer.from_node:
            self.harness.step_from_node(peer)

    @rule(error=st.sampled_from(["", "", "", "OSError: disk full"]))
    def run_thread(self, error):
        spiller = self.harness.spiller
        if spiller.calls and self.harness.service.table.room.growing is False:
            reading = any(s.phase.name == "LOADING" for s in self.harness.service.table.names.values())
            spiller.step("" if reading else error)
        elif spiller.calls:
            spiller.step()
        while self.harness.loop:
            self.harness.loop.popleft()()

    @rule(factor=st.sampled_from([0.4, 1.1, 20, 1000]))
    def time_passes(self, factor):
        self.harness.advance(factor * EVICTION_GRACE_S)

    @precondition(lambda self: len(self.peers) == 2)
    @rule()
    def settle(self):
        self.harness.run(1.0)

    @rule(data=st.data())
    def die(self, data):
        """kill -9 of a process: its views go, its objects with a living owner stay."""
        if data.draw(st.integers(0, 3), "rarely"):
            return
        peer = self.pick_peer(data)
        self.views = [entry for entry in self.views if entry[0] is not peer]
        self.objects = {oid: entry for oid, entry in self.objects.items() if entry[2] is not peer or entry[3]}
        self.harness.kill(peer)
        self.peers.remove(peer)
        self.peers.append(self.harness.join())
        self.objects = {oid: (value, content, self.peers[-1] if owner is peer else owner, escaped)
                        for oid, (value, content, owner, escaped) in self.objects.items()}

    @invariant()
    def holds(self):
        self.harness.check()
        for _, view, content in self.views:
            assert bytes(view) == content, "a viewed object changed"

    def teardown(self):
        self.views.clear()
        try:
            for oid, (value, _, maker, escaped) in self.objects.items():
                maker.client.free(oid, value, escaped)
            self.harness.run(5.0)
            self.harness.check()
        finally:
            self.harness.close()


class OverflowMachine(StoreMachine):
    """The same with a file behind the arena, for what memory cannot take."""

    overflow_bytes = 8 * 1024 * 1024


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=50)
TestOverflow = OverflowMachine.TestCase
TestOverflow.settings = settings(max_examples=60, stateful_step_count=50)
