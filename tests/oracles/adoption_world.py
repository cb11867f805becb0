"""Processes that own, hold, pass on and drop objects, and die: the oracle of eager and adoption.

The messages of each pair arrive in order, all else as ``choose`` says.  Time passes only when nothing else can
happen.  Every ObjectRef is in ``held``, which makes it the truth about what must live.

Their node has the store, and frees what nobody holds of owners that have ended (zray.node.jobs.unheld).  Its questions
come at any time, and go the way of its notices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

from tests.fakes.owner_net import ChannelNet
from zray.base.ends import Ends
from zray.gcs.client.requests import Call
from zray.node.jobs.unheld import HELD_S_MAX, Unheld
from zray.owner.adoption import GRACE_S, LOOK_AGAIN_S, Adoption
from zray.owner.eager_values import EagerValues
from zray.owner.holding import Holding
from zray.owner.records import Borrowed, Entry
from zray.owner.references import RECORD_BYTES, References
from zray.store.node.ownerless import OwnerlessObject
from zray.wire import messages as m

PROCESSES = [b"process%d" % i for i in range(4)]
KINDS = ("pending", "inline", "stored")
NODE = b"proc\0\0\0\0"  # of all processes
KEPT_BYTES_MAX = 2000 + 3 * RECORD_BYTES
# What may happen next, as often as it is named here.
STEPS = ("make", "make_around", *["finish"] * 2, *["open"] * 2, "drop", "ask", *["give"] * 3, *["lend"] * 2, "turn",
         *["happen"] * 6, "settle", "wait", "kill")

class OwnRows:
    """The control store: requests wait in line for each process, and so do answers."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.asked: dict[bytes, deque] = {p: deque() for p in PROCESSES}
        self.answers: dict[bytes, deque] = {p: deque() for p in PROCESSES}

    def of(self, process: bytes) -> Owners:
        return Owners(self, process)

    def apply(self, process: bytes) -> None:
        oid, swap, done = self.asked[process].popleft()
        call = Call([])
        if swap is None:
            value = self.rows.get(oid)
        else:
            old, new = swap
            won = self.rows.get(oid) == old
            if won and new is None:
                self.rows.pop(oid, None)
            elif won:
                self.rows[oid] = new
            value = won, self.rows.get(oid)
        self.answers[process].append((done, call, value))

    def answer(self, process: bytes) -> None:
        done, call, value = self.answers[process].popleft()
        call.complete("", value)
        done(call)


class Owners:
    def __init__(self, rows: OwnRows, process: bytes) -> None:
        self.rows, self.process = rows, process

    def swap_owner(self, oid, old, new, done):
        self.rows.asked[self.process].append((oid, (old, new), done))

    def read_owner(self, oid, done):
        self.rows.asked[self.process].append((oid, None, done))


class AdoptionWorld:
    """See the module's docstring."""

    def __init__(self, choose: Callable[[Sequence[Any]], Any]) -> None:
        self.choose = choose
        self.now = 0.0
        self.channels: dict[tuple[bytes, bytes], deque] = {}
        self.rows = OwnRows()
        self.blocks: dict[bytes, bytes] = {}  # in the store: object -> who owned it first
        # Freed by their first owner, perhaps before it had heard of a receiver whose sender had died.
        self.forfeited: set[bytes] = set()
        self.processes: dict[bytes, References] = {}
        self.adoptions: dict[bytes, Adoption] = {}
        self.known_gone: dict[bytes, set[bytes]] = {p: set() for p in PROCESSES}
        self.notices: dict[bytes, deque] = {p: deque() for p in PROCESSES}  # what the node tells: deaths, questions
        self.unheard: deque[bytes] = deque()  # deaths that the node has yet to see
        self.known = list(PROCESSES)  # by the node to live
        self.holdings: dict[bytes, Holding] = {}
        self.unheld = Unheld(
            NODE, lambda process, message: self.notices[process].append(message), processes=lambda: self.known,
            nodes=lambda: (), has_ended=lambda process: False, kept=set, announce=lambda: None,
            learn=lambda owner: None,
            ownerless=self.ownerless, free=self.free_unheld, settle_s=10.0)
        self.lent: dict[tuple[bytes, bytes], list] = {}  # (caller, worker): what unfinished tasks pin
        self.held: list[tuple[bytes, object]] = []  # (process, record): the ObjectRefs that exist
        self.made = 0
        for p in PROCESSES:
            refs = self.processes[p] = References(p, ChannelNet(self.channels, p), self.freeing(p), Ends(),
                                                  kept_bytes_max=KEPT_BYTES_MAX)
            refs.eager = EagerValues(refs, p, "", KEPT_BYTES_MAX)
            self.adoptions[p] = Adoption(refs, self.rows.of(p), "", lambda: self.now)
            refs.owner_died = self.despairing(p, refs.owner_died)
            self.holdings[p] = Holding(refs, self.adoptions[p], (), ChannelNet(self.channels, p).send, lambda: False)

    # ------------------------------------------------------------ what is watched

    def freed(self, process, oid):
        adopted = oid in self.adoptions[process].adopted
        assert adopted or oid in self.blocks, "freed twice"  # an adopter may be late: the store knows what it has freed
        self.blocks.pop(oid, None)
        for refs in self.processes.values():
            record = refs.borrowed.get(oid)
            assert record is None or not record.confirmed or record.owner != process, "freed while somebody holds it"
        if not adopted and len(self.processes) < len(PROCESSES):
            self.forfeited.add(oid)

    def ownerless(self, has_ended):
        return [OwnerlessObject(oid, 0, 0, owner) for oid, owner in self.blocks.items() if has_ended(owner)]

    def free_unheld(self, found):
        for one in found:
            del self.blocks[one.oid]
            for process, refs in self.processes.items():
                assert one.oid not in refs.owned and one.oid not in refs.borrowed, f"{process!r} holds what is freed"

    def freeing(self, process):
        return lambda oid, value, escaped: self.freed(process, oid)

    def despairing(self, process, owner_died):
        def checked(record):
            if record.value is None:
                for other, refs in self.processes.items():
                    for mine in (refs.owned.get(record.oid), refs.borrowed.get(record.oid)):
                        assert mine is None or mine.value is None or mine.value[0] == m.FAILED, \
                            f"{other!r} has the value that {process!r} gives up"
            owner_died(record)
        return checked

    def value(self, process, oid, stored, inner=()):
        if stored:
            self.blocks[oid] = process
            return [m.STORED, 0, 100, self.made, oid, NODE]
        return msgpack.packb([oid, [[r.oid, *a] for r, a in inner]])

    def pick(self, condition=lambda process, record: True):
        """One of the references that exist; None when none is like that."""
        fitting = [ref for ref in self.held if condition(*ref)]
        return self.choose(fitting) if fitting else None

    # ------------------------------------------------------------ programs

    def step(self, what: str) -> None:
        """One of STEPS, if it can be."""
        if self.held or what not in ("make_around", "finish", "open", "drop", "ask", "give", "lend"):
            getattr(self, what)()
        self.check()

    def make(self):
        process, kind = self.choose(sorted(self.processes)), self.choose(KINDS)
        self.made += 1
        entry = self.processes[process].own(b"object%022d" % self.made)
        if kind != "pending":
            self.processes[process].complete(entry, self.value(process, entry.oid, kind == "stored"))
        self.held.append((process, entry))

    def make_around(self):
        """An object whose value refers to another."""
        process, inner = self.pick()
        self.made += 1
        entry = self.processes[process].own(b"object%022d" % self.made)
        inner.refs += 1
        entry.contained = [inner]
        self.processes[process].complete(
            entry, self.value(process, entry.oid, False, [(inner, [inner.owner or process, ""])]))
        self.held.append((process, entry))

    def finish(self):
        ref = self.pick(lambda _, record: type(record) is Entry and record.value is None)
        if ref is not None:
            self.processes[ref[0]].complete(ref[1], self.value(*ref[:1], ref[1].oid, self.choose((True, False))))

    def open(self):
        """Read a value, and keep the reference that is inside."""
        ref = self.pick(lambda _, record: type(record.value) is bytes and b"process" in record.value)
        if ref is not None:
            process, record = ref
            _, triples = msgpack.unpackb(record.value)
            self.held.append((process, self.processes[process].restore(*triples[0], inside=record)))

    def drop(self):
        ref = self.pick()
        self.held = [mine for mine in self.held if mine is not ref]
        self.processes[ref[0]].unpin(ref[1])

    def ask(self):
        ref = self.pick(lambda _, record: record.value is None)
        if ref is not None:
            self.processes[ref[0]].when_ready(ref[1], lambda record: None)

    def give(self):
        """A result that carries the reference."""
        sender, record = self.pick()
        receiver = self.choose(PROCESSES)
        if receiver != sender:
            refs = self.processes[sender]
            token = refs.transits.send(receiver, [record])
            triple = [record.oid, record.owner or sender, ""]
            refs.eager.attach_values([triple], [record], receiver, 1000)
            refs.net.send(receiver, ("carry", [triple], token))

    def lend(self):
        """An argument of a task; the task may keep the reference."""
        caller, record = self.pick()
        worker, keep = self.choose(PROCESSES), self.choose((True, False))
        if worker != caller and worker not in self.known_gone[caller]:
            record.refs += 1
            self.lent[caller, worker] = [*self.lent.get((caller, worker), ()), record]
            ChannelNet(self.channels, caller).send(worker, ("run", [record.oid, record.owner or caller, ""], keep))

    # ------------------------------------------------------------ what happens around them

    def kill(self):
        """The last messages may be lost; requests that are under way may still be carried out."""
        if len(self.processes) == 1 or self.made < 2:
            return
        process = self.choose(sorted(self.processes))
        del self.processes[process], self.adoptions[process]
        self.held = [ref for ref in self.held if ref[0] != process]
        for (source, target), queue in self.channels.items():
            if source == process and queue and target in self.processes:
                for _ in range(self.choose(range(len(queue) + 1))):
                    queue.pop()
        for other in self.processes:
            if self.choose((True, False)):
                self.notices[other].append((process, False))
        self.unheard.append(process)

    def choices(self):
        live = self.processes
        return ([("message", c) for c, q in sorted(self.channels.items()) if q and (c[1] in live or c[1] == NODE)]
                + [("end", process) for process in self.unheard]
                + [("notice", p) for p in live if self.notices[p]]
                + [("apply", p) for p in PROCESSES if self.rows.asked[p]]
                + [("answer", p) for p in live if self.rows.answers[p]])

    def happen(self):
        for _ in range(self.choose(range(1, 9))):
            choices = self.choices()
            if (due := self.unheld.next_deadline()) is not None:
                choices.append(("sweep", due))
            if choices:
                self.happen_one(*self.choose(choices))

    def happen_one(self, what, where):
        if what == "message":
            self.deliver(*where)
        elif what == "apply":
            self.rows.apply(where)
        elif what == "answer":
            self.rows.answer(where)
        elif what == "sweep":
            self.unheld.tick(max(self.now, where))
        elif what == "end":
            self.node_sees_the_end_of(where)
        elif type(self.notices[where][0]) is m.AskHeld:
            self.holdings[where].on_ask(NODE, self.notices[where].popleft())
        else:
            process, certain = self.notices[where].popleft()
            if not certain:
                self.processes[where].process_closed(process)
            else:
                self.processes[where].process_ended(process)
                self.channels.pop((process, where), None)
                self.processes[where].unpin_all(self.lent.pop((where, process), ()))
                self.known_gone[where].add(process)
        if type(where) is bytes and where in self.processes:
            self.turn(where)

    def node_sees_the_end_of(self, process):
        self.unheard.remove(process)
        self.known.remove(process)
        self.channels.pop((process, NODE), None)
        for other in self.known:
            self.notices[other].append((process, True))
        self.unheld.process_ended(process, self.now)

    def deliver(self, source, target):
        message = self.channels[source, target].popleft()
        if target == NODE:
            self.unheld.on_held(source, message)
            return
        if source in self.known_gone[target]:
            return
        refs = self.processes[target]
        if type(message) is tuple and message[0] == "run":
            arrived = refs.restore(*message[1], lent=True)
            if message[2]:
                self.held.append((target, arrived))
            else:
                refs.unpin(arrived)
            refs.net.send(source, ("done", refs.still_held([arrived])))
        elif type(message) is tuple and message[0] == "done":
            refs.announce(source, message[1])
            refs.unpin(self.lent[target, source].pop(0))
        elif type(message) is tuple:
            self.held += [(target, record) for record in refs.transits.receive(source, message[1], message[2])]
        else:
            {m.HoldAdd: refs.on_hold_add, m.HoldAck: refs.on_hold_ack, m.HoldDrop: refs.on_hold_drop,
             m.Locate: refs.on_locate, m.Resolved: refs.on_resolved, m.TransitDone: refs.transits.on_transit_done,
             }[type(message)](source, message)
        self.turn(target)

    def turn(self, process=None):
        process = process or self.choose(PROCESSES)
        if process in self.processes:
            self.adoptions[process].pump()
            self.processes[process].flush()

    def settle(self):
        """Everything that is under way arrives, and no time passes."""
        while True:
            for process in self.processes:
                self.turn(process)
            if (due := self.unheld.next_deadline()) is not None and due <= self.now:
                self.unheld.tick(self.now)
            choices = self.choices()
            if not choices:
                self.holders_have_what_is_ready()
                return
            for choice in choices:
                if choice in self.choices():
                    self.happen_one(*choice)

    def wait(self, seconds=0.0):
        seconds = seconds or self.choose((*LOOK_AGAIN_S, GRACE_S))
        end = self.now + seconds
        while True:
            self.settle()
            times = [when for a in (*self.adoptions.values(), self.unheld) if (when := a.next_deadline()) is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
        self.now = end

    # ------------------------------------------------------------ what must be true

    def check(self) -> None:
        self.one_owner()
        self.machines_are_sound()
        self.nothing_held_is_freed()

    def holders_have_what_is_ready(self):
        """After everything has arrived, the owner's death would take nothing from a holder."""
        for refs in self.processes.values():
            for oid, record in refs.borrowed.items():
                owner = self.processes.get(record.owner)
                entry = owner.owned.get(oid) if owner not in (None, refs) else None
                if entry is None or entry.value is None or refs.kept_bytes + 200 + RECORD_BYTES > KEPT_BYTES_MAX:
                    continue
                assert record.value is not None, "ready, and a holder does not know"
                assert not entry.contained or record.contained, "what it contains is not held"

    def one_owner(self):
        owners: dict[bytes, bytes] = {}
        for process, adoption in self.adoptions.items():
            for oid in adoption.adopted:
                assert owners.setdefault(oid, process) == process, "two adopters"
                for other, refs in self.processes.items():
                    entry = refs.owned.get(oid)
                    if other == process or entry is None or (type(entry.value) is list and entry.value[1] == "freed"):
                        continue
                    orphan = self.adoptions[other].ownerless.get(oid)
                    assert orphan is not None and orphan.entry is entry, "adopted while it has an owner"

    def machines_are_sound(self):
        for process, refs in self.processes.items():
            refs.check()
            self.adoptions[process].check()
        self.unheld.check()

    def nothing_held_is_freed(self):
        for _, record in self.held:
            value = record.value
            if type(value) is list and value[0] == m.FAILED:
                # Freed: who gave the reference had died before the owner, which lives, heard of the receiver.
                assert len(self.processes) < len(PROCESSES) and value[1] in ("owner_died", "freed")
            elif type(value) is list and record.oid not in self.forfeited:
                assert record.oid in self.blocks, "freed while somebody holds it"

    def end(self) -> None:
        """Who asks gets it, when anybody has it; and when all is dropped, nothing is left anywhere."""
        self.settle()
        for process, record in self.held:
            self.processes[process].when_ready(record, lambda record: None)
        self.wait(2 * GRACE_S)
        for _, record in self.held:
            if type(record) is Borrowed:
                assert record.value is not None or record.owner in self.processes, "it waits for nobody"
                owner = self.processes.get(record.owner)
                assert owner is not None or type(record.value) is list and record.value[0] == m.FAILED, "unowned"
        for process, record in list(self.held):
            self.processes[process].unpin(record)
        self.held.clear()
        self.wait(4 * GRACE_S + 2 * HELD_S_MAX + max(0.0, self.unheld.now - self.now))
        assert not self.blocks, "left in the store"
        assert self.unheld.round is None
        for process, refs in self.processes.items():
            assert not refs.owned and not refs.borrowed and not refs.held_by and not refs.dropped_holds
            assert not refs.transits.sent and not refs.transits.received and not refs.finalizers and not refs.kept_bytes
            assert not self.adoptions[process].busy and not self.adoptions[process].adopted
        for row in self.rows.rows.values():
            assert msgpack.unpackb(row)[0] not in self.processes, "a row that names nobody's owner"

def run_schedule(seed: int) -> None:
    random = Random(seed)
    world = AdoptionWorld(random.choice)
    steps = [step for step in STEPS if step != "happen" or random.random() < 0.7]
    for _ in range(random.randint(5, 80)):
        what = random.choice(steps)
        if what not in ("settle", "wait", "kill") or random.random() < 0.5:
            world.step(what)
    world.end()
