"""References under every interleaving: an object lives exactly as long as some live process refers to it."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.fakes.owner_net import ChannelNet
from zray.base.ends import Ends
from zray.owner.records import Borrowed, Entry
from zray.owner.references import References
from zray.wire import messages as m

PROCESSES = [b"process%d" % i for i in range(4)]


class Channels:
    """First in, first out between each pair; a connection of a task's reply is separate from that of references."""

    def __init__(self):
        self.channels: dict[tuple[bytes, bytes, str], deque] = {}

    def net(self, source: bytes):
        return ChannelNet(self.channels, source, "messages")

    def push(self, source: bytes, target: bytes, lane: str, item) -> None:
        self.channels.setdefault((source, target, lane), deque()).append(item)


class ReferencesMachine(RuleBasedStateMachine):
    """Processes own objects, drop references, pass them to each other as arguments of tasks and in results."""

    refs = Bundle("refs")

    def __init__(self):
        super().__init__()
        self.wire = Channels()
        self.processes = {p: References(p, self.wire.net(p), lambda *_: None, Ends()) for p in PROCESSES}
        self.held: list[tuple[bytes, object]] = []  # (process, record): the ObjectRefs that exist, the oracle's truth
        self.made = 0

    def handle(self, process: bytes, source: bytes, message) -> None:
        refs = self.processes[process]
        {m.HoldAdd: refs.on_hold_add, m.HoldAck: refs.on_hold_ack, m.HoldDrop: refs.on_hold_drop,
         m.Locate: refs.on_locate, m.Resolved: refs.on_resolved, m.TransitDone: refs.transits.on_transit_done,
         }[type(message)](source, message)

    @rule(target=refs, process=st.sampled_from(PROCESSES), ready=st.booleans())
    def make(self, process, ready):
        if process not in self.processes:
            return None
        self.made += 1
        entry = self.processes[process].own(b"object%022d" % self.made)
        if ready:
            self.processes[process].complete(entry, b"value")
        self.held.append((process, entry))
        return (process, entry)

    @rule(ref=refs)
    def drop(self, ref):
        if ref in self.held:
            self.held.remove(ref)
            self.processes[ref[0]].unpin(ref[1])

    @rule(ref=refs, target_process=st.sampled_from(PROCESSES), keep=st.booleans())
    def pass_to_task(self, ref, target_process, keep):
        """The caller pins the argument; the worker may keep the reference; the reply says so; the pin goes."""
        if ref not in self.held or target_process == ref[0] or target_process not in self.processes:
            return
        caller, record = ref
        record.refs += 1
        self.wire.push(caller, target_process, "tasks", ("run", record, keep))

    @rule(ref=refs, receiver=st.sampled_from(PROCESSES))
    def return_inside_value(self, ref, receiver):
        """A result that carries the reference: the receiver becomes a holder of it."""
        if ref not in self.held or receiver == ref[0] or receiver not in self.processes:
            return
        sender, record = ref
        refs = self.processes[sender]
        token = refs.transits.send(receiver, [record])
        triple = [record.oid, record.owner or sender, ""]
        self.wire.push(sender, receiver, "tasks", ("carry", triple, token))

    @rule(data=st.data())
    def deliver(self, data):
        channels = [c for c, q in self.wire.channels.items() if q]
        if channels:
            self.deliver_one(data.draw(st.sampled_from(sorted(channels))))

    def deliver_one(self, channel):
        source, target, lane = channel
        item = self.wire.channels[channel].popleft()
        if target not in self.processes:
            return
        refs = self.processes[target]
        if lane == "messages":
            self.handle(target, source, item)
        elif item[0] == "run":
            _, record, keep = item
            arrived = refs.restore(record.oid, record.owner or source, "")
            held = []
            if keep:
                self.held.append((target, arrived))
                held = [[arrived.oid, arrived.n]] if type(arrived) is Borrowed else []
            else:
                refs.unpin(arrived)
            self.wire.push(target, source, "tasks", ("done", record, held))
        elif item[0] == "done":
            _, record, held = item
            refs.announce(source, held)
            refs.unpin(record)
        else:
            for record in refs.transits.receive(source, [item[1]], item[2]):
                self.held.append((target, record))
        refs.flush()

    @rule(process=st.sampled_from(PROCESSES))
    def flush(self, process):
        if process in self.processes:
            self.processes[process].flush()

    @invariant()
    def nothing_held_is_freed(self):
        for process, record in self.held:
            owner = record.owner or process
            if owner in self.processes and not (type(record.value) is list and record.value[0] == m.FAILED):
                assert record.oid in self.processes[owner].owned, "freed while somebody holds it"

    @invariant()
    def machines_are_sound(self):
        for refs in self.processes.values():
            refs.check()

    def teardown(self):
        self.settle()
        self.nothing_held_is_freed()
        alive = {record.oid for _, record in self.held}
        for refs in self.processes.values():
            assert set(refs.owned) <= alive, "leaked: nobody refers to it"
            assert not refs.transits.sent and not refs.transits.received
        for process, record in list(self.held):
            self.processes[process].unpin(record)
        self.held.clear()
        self.settle()
        for refs in self.processes.values():
            assert not refs.owned and not refs.borrowed and not refs.held_by and not refs.dropped_holds

    def settle(self):
        while True:
            for refs in self.processes.values():
                refs.flush()
            channels = [c for c, q in self.wire.channels.items() if q]
            if not channels:
                return
            for channel in channels:
                while self.wire.channels[channel]:
                    self.deliver_one(channel)


TestReferences = ReferencesMachine.TestCase


def test_a_drop_that_overtakes_the_add_of_a_sender_leaves_no_hold():
    wire = Channels()
    owner = References(b"owner", wire.net(b"owner"), lambda *_: None, Ends())
    entry: Entry = owner.own(b"o" * 28)
    owner.on_hold_drop(b"worker", m.HoldDrop([[entry.oid, 3]], b"worker"))
    owner.on_hold_add(b"caller", m.HoldAdd([[entry.oid, 3]], b"worker", []))
    owner.unpin(entry)
    assert not owner.owned
    owner.check()


def test_the_death_of_a_holder_frees_what_only_it_held():
    freed = []
    wire = Channels()
    owner = References(b"owner", wire.net(b"owner"), lambda oid, value, escaped: freed.append((oid, escaped)), Ends())
    entry = owner.own(b"o" * 28)
    owner.complete(entry, [m.STORED, 0, 100, 1, entry.oid, b"node\0\0\0\0"])
    owner.on_hold_add(b"worker", m.HoldAdd([[entry.oid, 1]], b"worker", []))
    owner.unpin(entry)
    assert owner.owned and not freed
    owner.process_closed(b"worker")
    assert not owner.owned and freed == [(b"o" * 28, True)]


def test_the_death_of_the_owner_fails_what_is_pending_and_keeps_what_is_here():
    wire = Channels()
    borrower = References(b"me", wire.net(b"me"), lambda *_: None, Ends())
    pending = borrower.restore(b"a" * 28, b"owner", "ipc://x")
    here = borrower.restore(b"b" * 28, b"owner", "ipc://x")
    borrower.complete(here, b"value")
    borrower.process_closed(b"owner")
    assert pending.value[1] == "owner_died" and here.value == b"value"
