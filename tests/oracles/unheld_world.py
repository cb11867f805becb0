"""References of a dead owner, handed around between processes of several nodes: what zray.node.jobs.unheld may free.

There is no adoption here, so that the two questions alone decide.  Messages of each pair of processes arrive in order,
all else as ``choose`` says; a process may stand still for long.  A reference is given as in zray.owner: the sender pins
it until the receiver has confirmed that it holds it.  What a dead process had sent is heard or lost: a process takes no
more of it once its node has told it of the end, or, where it had dialled the other, once that connection is drained.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from zray.base.ends import Ends
from zray.base.ids import node_of
from zray.node.jobs.unheld import Unheld
from zray.owner.holding import Holding
from zray.store.node.ownerless import OwnerlessObject
from zray.wire.messages import AskHeld

SETTLE_S = 10.0
OBJECTS = [b"object%022d" % i for i in range(2)]
STEPS = (*["give"] * 4, *["drop"] * 4, *["sweep"] * 2, "kill", "birth", *["happen"] * 8)


class HoldingProcess:
    """A process: References and Adoption as far as Holding looks at them."""

    def __init__(self, world: UnheldWorld, name: bytes) -> None:
        self.world, self.name, self.node = world, name, node_of(name)
        self.borrowed: Counter[bytes] = Counter()  # references, and pins of what is under way
        self.owned: dict[bytes, Any] = {}
        self.ownerless: dict[bytes, Any] = {}
        self.watched: dict[bytes, set[bytes]] = {}
        self.inbox: deque[Any] = deque()  # from its node: ends of processes, questions
        self.ended: set[bytes] = set()  # of whose end it has heard
        self.holding = Holding(self, self, (), self.answer, self.may_hear_the_dead)  # type: ignore[arg-type]

    def answer(self, node: bytes, message: Any) -> None:
        self.world.channels.setdefault((self.name, node), deque()).append(message)

    def may_hear_the_dead(self) -> bool:
        return any(target == self.name and source in self.ended for source, target in self.world.channels)

    def take(self, oid: bytes) -> None:
        if oid not in self.borrowed:
            for watched in self.watched.values():  # as References.note_restored
                watched.discard(oid)
        self.borrowed[oid] += 1

    def let_go(self, oid: bytes) -> None:
        self.borrowed[oid] -= 1
        if not self.borrowed[oid]:
            del self.borrowed[oid]


class UnheldWorld:
    """See the module's docstring."""

    def __init__(self, choose: Callable[[Sequence[Any]], Any]) -> None:
        self.choose = choose
        self.now = 2 * SETTLE_S
        self.channels: dict[tuple[bytes, bytes], deque[Any]] = {}
        self.nodes: dict[bytes, Unheld] = {}
        self.ends: dict[bytes, Ends] = {}  # of each node
        self.processes: dict[bytes, HoldingProcess] = {}
        self.known: dict[bytes, list[bytes]] = {}  # node -> its processes, as it knows
        self.gone_unseen: list[bytes] = []  # dead processes of which their node has not heard
        self.pins: dict[tuple[bytes, bytes], list[bytes]] = {}  # (sender, receiver) -> objects not confirmed
        self.born = Counter[bytes]()
        tags = (b"nodA", b"nodB")
        self.owner = tags[0] + b"\0\0\0\x01"
        for tag in tags:
            node = tag + bytes(4)
            self.known[node] = []
            self.ends[node] = Ends()
            self.nodes[node] = Unheld(
                node, lambda peer, message, node=node: self.say(node, peer, message),
                processes=lambda node=node: self.known[node], nodes=lambda node=node: self.nodes.keys() - {node},
                has_ended=self.ends[node].has_ended, kept=set, announce=lambda: None,
                learn=lambda owner, node=node: self.tell_all(node, owner),
                ownerless=lambda has_ended, node=node: self.ownerless(node, has_ended), free=self.free,
                settle_s=SETTLE_S)
            for _ in range(2):
                self.birth(node)
        self.blocks = dict.fromkeys(OBJECTS, tags[1] + bytes(4))  # of the owner on A, in the store of B
        for oid in OBJECTS:
            self.processes[choose(sorted(self.processes))].take(oid)
        self.kill(self.owner)

    def say(self, node: bytes, peer: bytes, message: Any) -> None:
        if peer in self.processes:
            self.processes[peer].inbox.append(message)
        elif peer in self.nodes:
            self.channels.setdefault((node, peer), deque()).append(message)

    # ------------------------------------------------------------ the store

    def ownerless(self, node: bytes, has_ended: Callable[[bytes], bool]) -> list[OwnerlessObject]:
        return [OwnerlessObject(oid, 0, 0, self.owner) for oid, at in self.blocks.items()
                if at == node and has_ended(self.owner)]

    def free(self, found: list[OwnerlessObject]) -> None:
        for one in found:
            del self.blocks[one.oid]
            assert not any(one.oid in process.borrowed for process in self.processes.values()), "held, and freed"
            for (source, target), queue in self.channels.items():
                if target in self.processes and source not in self.processes[target].ended:
                    assert ("give", one.oid) not in queue, "on its way to a process that will take it, and freed"

    # ------------------------------------------------------------ what happens

    def step(self, what: str) -> None:
        getattr(self, what)()
        for node in self.nodes.values():
            node.check()

    def give(self) -> None:
        holders = [(p.name, oid) for p in self.processes.values() for oid in p.borrowed]
        if not holders:
            return
        sender, oid = self.choose(sorted(holders))
        receiver = self.choose(sorted(self.processes))
        if receiver != sender and receiver not in self.processes[sender].ended:
            self.processes[sender].take(oid)
            self.pins.setdefault((sender, receiver), []).append(oid)
            self.channels.setdefault((sender, receiver), deque()).append(("give", oid))

    def drop(self) -> None:
        """A reference, never a pin, and not the last one: that is for the end."""
        held = sum((process.borrowed for process in self.processes.values()), Counter())
        free = [(p.name, oid) for p in self.processes.values() for oid, count in p.borrowed.items()
                if count > sum(pins.count(oid) for (sender, _), pins in self.pins.items() if sender == p.name)
                and held[oid] > 1]
        if free:
            name, oid = self.choose(sorted(free))
            self.processes[name].let_go(oid)

    def sweep(self) -> None:
        node = self.choose(sorted(self.nodes))
        due = self.nodes[node].next_deadline()
        if due is not None:
            self.nodes[node].tick(max(due, self.now))

    def birth(self, node: bytes = b"") -> None:
        node = node or self.choose(sorted(self.nodes))
        if len(self.known[node]) < 3 and self.born[node] < 20:
            self.born[node] += 1
            name = node[:4] + self.born[node].to_bytes(4, "big")
            self.processes[name] = HoldingProcess(self, name)
            self.known[node].append(name)

    def kill(self, name: bytes = b"") -> None:
        if len(self.processes) > 2:
            name = name or self.choose(sorted(self.processes))
            del self.processes[name]
            self.gone_unseen.append(name)
            for place in [place for place in self.pins if place[0] == name]:
                del self.pins[place]

    def choices(self) -> list[tuple[str, Any]]:
        return ([("message", place) for place, queue in sorted(self.channels.items())
                 if queue and (place[1] in self.nodes or place[1] in self.processes)]
                + [("inbox", name) for name, process in sorted(self.processes.items()) if process.inbox]
                + [("end", name) for name in self.gone_unseen])

    def happen(self) -> None:
        for _ in range(self.choose(range(1, 5))):
            choices = self.choices()
            if choices:
                self.happen_one(*self.choose(choices))

    def happen_one(self, what: str, where: Any) -> None:
        if what == "message":
            self.deliver(*where)
        elif what == "end":
            self.node_sees_the_end_of(where)
        else:
            process = self.processes[where]
            message = process.inbox.popleft()
            if type(message) is AskHeld:
                process.holding.on_ask(process.node, message)
            else:
                self.hears_the_end_of(process, message)

    def hears_the_end_of(self, process: HoldingProcess, dead: bytes) -> None:
        process.ended.add(dead)
        for oid in self.pins.pop((process.name, dead), ()):
            process.let_go(oid)
        channel = dead, process.name
        if not self.channels.get(channel) or self.choose((True, False)):  # else we had dialled: it drains
            self.channels.pop(channel, None)

    def node_sees_the_end_of(self, name: bytes) -> None:
        self.gone_unseen.remove(name)
        home = node_of(name)
        self.known[home].remove(name)
        self.channels.pop((name, home), None)
        for other in self.nodes.keys() - {home}:
            self.channels.setdefault((home, other), deque()).append(name)
            self.nodes[home].announced(other)
        self.tell_all(home, name)

    def tell_all(self, node: bytes, dead: bytes) -> None:
        for name in self.known[node]:
            if name in self.processes:
                self.processes[name].inbox.append(dead)
        if node_of(dead) != node:
            self.ends[node].process_ended(dead)
        self.nodes[node].process_ended(dead, self.now)

    def deliver(self, source: bytes, target: bytes) -> None:
        queue = self.channels[source, target]
        message = queue.popleft()
        if not queue:
            del self.channels[source, target]
        if target in self.nodes:
            node = self.nodes[target]
            if type(message) is bytes:
                node.end_received(source)
                self.tell_all(target, message)
            elif type(message) is AskHeld:
                node.on_ask(source, message)
            else:
                node.on_held(source, message)
        elif message[0] == "give":
            self.processes[target].take(message[1])
            if source in self.processes:
                self.channels.setdefault((target, source), deque()).append(("confirm", message[1]))
        elif message[1] in self.pins.get((target, source), ()):
            self.pins[target, source].remove(message[1])
            self.processes[target].let_go(message[1])

    def end(self) -> None:
        """Everything arrives and everything is dropped: nothing is left in the store."""
        self.settle()
        for process in self.processes.values():
            process.borrowed.clear()
        self.pins.clear()
        for _ in range(40):
            self.settle()
            self.now = max([self.now, *(due for n in self.nodes.values() if (due := n.next_deadline()) is not None)])
            for node in self.nodes.values():
                node.tick(self.now)
        assert not self.blocks, "left in the store"
        assert not any(node.asked or node.round for node in self.nodes.values())

    def settle(self) -> None:
        while choices := self.choices():
            for choice in choices:
                if choice in self.choices():
                    self.happen_one(*choice)


def run_schedule(seed: int) -> None:
    random = Random(seed)
    world = UnheldWorld(random.choice)
    steps = [step for step in STEPS if step not in ("kill", "birth") or random.random() < 0.5]
    for _ in range(random.randint(50, 400)):
        world.step(random.choice(steps))
    world.end()
