"""Nodes with real store tables and transfer machines, joined by a network and a control store made of dictionaries.

Links are reliable and in order for each pair, as sessions make them; they may be slow, or silent for a while, and
damage chunks.  Nodes may die at any time; the others learn of it later.  One seed, one schedule.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from zray.base.ends import Ends
from zray.store.header import CREATED, HEADER_BYTES, SEALED, Headers, block_bytes
from zray.store.node.records import (
    DISK_FULL_REASON,
    FULL_REASON,
    Arriving,
    Back,
    Dropped,
    Freed,
    Grow,
    Load,
    Punch,
    SendToClient,
    SpillObject,
    UnlinkFile,
)
from zray.store.node.table import StoreTable
from zray.store.transfer.exchange import Find, HandoverProgress, ObjectKey, RecordCopies, SendToNode
from zray.store.transfer.machine import TransferMachine
from zray.wire.messages import (
    STORED,
    Chunk,
    StoreCollect,
    StoreFree,
    StoreGrant,
    StoreKeep,
    StoreKept,
    StorePull,
    StorePulling,
    StoreRecall,
    StoreReclaimed,
    StoreRefused,
    StoreRestored,
    StoreSurrender,
    StoreWant,
)

CHUNK = 1000


class Read:
    """One process's wish for one object; ``outcome`` is its bytes or the reason why not."""

    def __init__(self, node: StoreNode, value: list, now: float):
        self.node = node
        self.value = value
        self.outcome: bytes | str | None = None
        self.tries = 0
        self.since = now
        self.at_risk = False  # its failure would be truthful


class StoreNode:
    """One node: table, machine, spill files, and one client that puts and reads."""

    def __init__(self, net: TransferNet, number: int, capacity: int, overflow: int):
        self.net = net
        self.incarnation = bytes([number + 1]) * 4 + bytes(4)
        self.client = self.incarnation[:4] + b"\0\0\0\1"
        self.alive = True
        self.memory = bytearray(capacity + overflow)
        self.headers = Headers(self.memory)
        self.pins: set[int] = set()
        self.table = StoreTable(self.headers, capacity, self._pinned, step_bytes=capacity, extent_bytes=4096,
                                full_wait_s=5.0, overflow_bytes=overflow)
        self.ends = Ends()
        self.machine = TransferMachine(self.table, self.headers, self.incarnation, self.ends, CHUNK)
        self.machine.durable.nodes = self._others
        self.table.room.connect(self.client)
        self.files: dict[int, bytes] = {}
        self.wanted: dict[int, Callable[[StoreGrant], None]] = {}  # requests that wait for room
        self.reads: dict[int, Read] = {}
        self.heard: list[Any] = []
        self.keeps: set[int] = set()  # requests without an answer
        self.requests = 0
        self.generations = 1 << 32  # as a client whose epoch is 1
        self.extents: list[list[int]] = []
        self.chunks_sent: dict[ObjectKey, int] = {}

    def _pinned(self) -> set[int]:
        return self.pins | self.machine.copies.pins()

    # ------------------------------------------------------------ a process here

    def put(self, content: bytes, oid: bytes) -> list | None:
        """Store an object at once; None when there is no room just now."""
        made: list[list] = []
        self.put_later(content, oid, made.append)
        while self.net.growths:
            self.net.growths.popleft()()
        if not made:
            room, request = self.table.room, self.requests
            room.waiting = deque(w for w in room.waiting if w.stored is not None or w.request != request)
            self.wanted.pop(request, None)
            return None
        return made[0]

    def put_later(self, content: bytes, oid: bytes, then: Callable[[list], None]) -> None:
        """Store an object when there is room; ``then(value)``, unless the request is refused."""
        self._want(block_bytes(len(content)), lambda grant: then(self._fill(grant, content, oid)))

    def want(self, nbytes: int) -> None:
        """Ask for an extent."""
        self._want(nbytes, lambda grant: self.extents.append([grant.offset, grant.size]))

    def _want(self, nbytes: int, then: Callable[[StoreGrant], None]) -> None:
        self.requests += 1
        self.wanted[self.requests] = then
        self.table.room.on_want(self.client, StoreWant(self.requests, nbytes), self.net.now)
        self.perform()

    def _fill(self, grant: StoreGrant, content: bytes, oid: bytes) -> list:
        size = block_bytes(len(content))
        self.generations += 1
        if grant.size - size >= 128:
            self.headers.format(grant.offset + size, grant.size - size)
            self.headers.resize(grant.offset, size)
        self.headers.create(grant.offset, len(content), self.generations, oid)
        self.memory[grant.offset + HEADER_BYTES : grant.offset + HEADER_BYTES + len(content)] = content
        self.headers.set_state(grant.offset, self.generations, SEALED)
        self.extents.append([grant.offset, grant.size])
        return [STORED, grant.offset, len(content), self.generations, oid, self.incarnation]

    def surrender(self) -> None:
        """The client gives all its extents to the store."""
        extents, self.extents = self.extents, []
        self.table.on_surrender(self.client, StoreSurrender(0, extents), self.net.now)
        self.perform()

    def _others(self) -> list[bytes]:
        """The other nodes that live, as far as it knows."""
        return [node.incarnation for node in self.net.nodes if node is not self
                and node.incarnation not in self.ends.nodes]

    def keep(self, value: list, copies: int) -> None:
        """Ask for so many copies of an object that was put here."""
        self.requests += 1
        self.keeps.add(self.requests)
        self.machine.on_keep(self.client, StoreKeep(self.requests, value, copies), self.net.now)
        self.perform()

    def read(self, value: list) -> Read:
        read = Read(self, value, self.net.now)
        self.net.reads.append(read)
        self._ask(read)
        return read

    def _ask(self, read: Read) -> None:
        self.requests += 1
        read.tries += 1
        self.reads[self.requests] = read
        self.machine.on_pull(self.client, StorePull(self.requests, read.value), self.net.now)
        self.perform()

    def free(self, value: list) -> None:
        """Its owner is here."""
        message = StoreFree([[value[4], value[1], value[3]]])
        if value[5] == self.incarnation:
            self.table.on_free(self.client, message, self.net.now)
        else:
            self.machine.free(value[5], message.objects, self.net.now)
        self.perform()

    def _hear(self, message: Any) -> None:
        if type(message) is StoreGrant:
            self.wanted.pop(message.request)(message)
        elif type(message) is StoreKept:
            self.keeps.remove(message.request)
        elif type(message) is StoreRestored:
            read = self.reads.pop(message.request)
            if message.error:
                self.net.failed(read, message.error)
                return
            _, offset, nbytes, generation = message.value
            if self.headers.matches(offset, read.value[4], generation) != SEALED:
                self.net.soon(partial(self._again, read))  # evicted before it was pinned
                return
            read.outcome = bytes(self.memory[offset + HEADER_BYTES : offset + HEADER_BYTES + nbytes])
        else:
            if type(message) is StoreRefused:
                del self.wanted[message.request]
            assert type(message) in (StoreRecall, StoreReclaimed, StoreRefused, StorePulling, StoreCollect), message
            self.heard.append(message)

    def _again(self, read: Read) -> None:
        if self.alive:
            self._ask(read)

    # ------------------------------------------------------------ its shell

    def hear_end(self, node: bytes) -> None:
        """As a daemon does: the register first."""
        if self.ends.node_ended(node):
            self.machine.node_ended(node, self.net.now)

    def perform(self) -> None:
        net = self.net
        while effects := [*self.table.take(), *self.machine.take()]:
            for effect in effects:
                kind = type(effect)
                if kind is SendToClient and effect.client == b"":
                    self.machine.restored(effect.message, net.now)
                elif kind is SendToClient:
                    self._hear(effect.message)
                elif kind is SendToNode:
                    assert effect.node != self.incarnation
                    if type(effect.message) is Chunk:
                        net.chunk_sent(self, effect.node, effect.message)
                    net.send(self, effect.node, effect.message)
                elif kind is Arriving:
                    self.machine.arriving(effect, net.now)
                elif kind is Dropped:
                    self.machine.dropped(effect, net.now)
                elif kind is Freed:
                    self.machine.freed(effect, net.now)
                elif kind is RecordCopies:
                    net.later(self, partial(net.record, effect.oid, effect.nodes))
                elif kind is Find:
                    net.later(self, partial(self._located, effect))
                elif kind is Grow:
                    net.growths.append(partial(self._grown, effect))
                    net.soon(net.grow)
                elif kind is Back:
                    net.later(self, partial(self._backed, effect))
                elif kind is Punch:
                    net.later(self, partial(self._returned, effect))
                elif kind is SpillObject:
                    self.files[effect.key] = bytes(self.memory[effect.offset : effect.offset + effect.nbytes])
                    net.later(self, partial(self._slow, self.table.spilled, effect))
                elif kind is Load:
                    self.memory[effect.offset : effect.offset + effect.nbytes] = self.files[effect.key]
                    net.later(self, partial(self._slow, self.table.loaded, effect))
                else:
                    assert kind is UnlinkFile
                    del self.files[effect.key]

    def _grown(self, effect: Grow) -> None:
        if self.alive:
            self.table.room.grown(effect.size, "", self.net.now)
            self.perform()

    def _backed(self, effect: Back) -> None:
        error = "OSError: disk full" if self.net.rng.random() < self.net.disk_full else ""
        self.table.room.backed(effect.start, error, self.net.now)

    def _returned(self, effect: Punch) -> None:
        self.memory[effect.start : effect.start + effect.size] = bytes(effect.size)
        self.table.room.returned(effect.start, self.net.now)

    def _slow(self, event: Any, effect: SpillObject | Load) -> None:
        event(effect.key, effect.generation, "", self.net.now)

    def _located(self, effect: Find) -> None:
        self.machine.located(effect.token, list(self.net.rows.get(effect.oid, ())), self.net.now)

    def deadline(self) -> float | None:
        return min((at for at in (self.table.next_deadline(), self.machine.next_deadline()) if at is not None),
                   default=None)

    def tick(self) -> None:
        self.table.tick(self.net.now)
        self.machine.tick(self.net.now)
        self.perform()

    def has(self, value: list) -> bool:
        key = ObjectKey(value[4], value[5], value[3])
        return key.node == self.incarnation or self.machine.copies.complete(key) is not None

    def check(self) -> None:
        self.table.check()
        self.machine.check()
        for stored in self.table.names.values():
            if stored.foreign and stored.offset >= 0 and not stored.freed and stored.phase.name == "LOADING":
                assert self.headers.read(stored.offset).state == CREATED


class TransferNet:
    """All of it."""

    def __init__(self, seed: int, nodes: int, capacity: int = 64 * 1024, corruption: float = 0.0,
                 overflow: int = 0, disk_full: float = 0.0):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.corruption = corruption
        self.disk_full = disk_full  # how often the disk has no room for a part of the overflow
        self.links: dict[tuple[bytes, bytes], deque[Any]] = {}
        self.silent: dict[tuple[bytes, bytes], float] = {}
        self.jobs: list[tuple[StoreNode, Any]] = []  # answers of disks and of the control store, in any order
        self.calls: deque[Any] = deque()
        self.growths: deque[Any] = deque()
        self.rows: dict[bytes, list[bytes]] = {}
        self.reads: list[Read] = []
        self.freed: set[bytes] = set()
        self.untruthful: list[str] = []
        self.trace: list[Any] = []
        self.nodes = [StoreNode(self, number, capacity, overflow) for number in range(nodes)]
        self.by_name = {node.incarnation: node for node in self.nodes}
        self.contents: dict[bytes, bytes] = {}

    @property
    def living(self) -> list[StoreNode]:
        return [node for node in self.nodes if node.alive]

    # ------------------------------------------------------------ what nodes do

    def send(self, source: StoreNode, node: bytes, message: Any) -> None:
        if self.by_name[node].alive:
            self.links.setdefault((source.incarnation, node), deque()).append(message)

    def chunk_sent(self, source: StoreNode, node: bytes, message: Chunk) -> None:
        session = source.machine.serving.sessions[node, message.pull]
        source.chunks_sent[session.key] = source.chunks_sent.get(session.key, 0) + 1

    def later(self, node: StoreNode, call: Any) -> None:
        self.jobs.append((node, call))

    def soon(self, call: Any) -> None:
        self.calls.append(call)

    def grow(self) -> None:
        while self.growths:
            self.growths.popleft()()

    def record(self, oid: bytes, nodes: list[bytes]) -> None:
        if nodes:
            self.rows[oid] = nodes
        else:
            self.rows.pop(oid, None)

    def failed(self, read: Read, error: str) -> None:
        """A reader was told that it cannot have the object: that must be so."""
        read.outcome = error
        value = read.value
        self.trace.append((self.now, "failed", read.node.incarnation[0], error))
        root = self.by_name[value[5]]
        if value[4] in self.freed:
            return
        if error.startswith((FULL_REASON, DISK_FULL_REASON)) or read.at_risk:
            return
        if "wrong" in error or "damaged" in error:
            assert self.corruption
            return
        # A node announces its copy when it hears that the node of the primary has ended.
        if root.alive or any(node.has(value) and value[5] in node.ends.nodes for node in self.living):
            self.untruthful.append(error)

    # ------------------------------------------------------------ what happens

    def put(self, node: StoreNode, nbytes: int) -> list | None:
        oid = b"job1" + len(self.contents).to_bytes(24, "big")
        content = self.rng.randbytes(nbytes)
        value = node.put(content, oid)
        if value is not None:
            self.contents[oid] = content
        return value

    def put_later(self, node: StoreNode, nbytes: int, then: Callable[[list], None]) -> None:
        """Store an object when there is room, perhaps in the overflow."""
        oid = b"job1" + len(self.contents).to_bytes(24, "big")
        content = self.contents[oid] = self.rng.randbytes(nbytes)
        node.put_later(content, oid, then)

    def kill(self, node: StoreNode) -> None:
        """At once for itself; the others learn of it in their own time."""
        node.alive = False
        for pair in [pair for pair in self.links if node.incarnation in pair]:
            if pair[1] == node.incarnation:
                del self.links[pair]  # what it had sent still arrives
        self.jobs = [job for job in self.jobs if job[0] is not node]
        for other in self.living:
            self.later(other, partial(other.hear_end, node.incarnation))

    def leave(self, node: StoreNode) -> HandoverProgress:
        """It hands over what only it has, as long as that goes on; then it ends."""
        heirs = [other.incarnation for other in self.living if other is not node]
        until = self.now + 10.0
        while True:
            handed = node.machine.hand_over(heirs, lambda oid: True, self.now)
            node.perform()
            if any(type(message) is StoreRecall for message in node.heard):
                node.surrender()
            node.heard.clear()
            self.check()
            unwritten = any(who is node and call.func == self.record for who, call in self.jobs)  # as a daemon does
            if handed.done and not unwritten or self.now > until:
                break
            if not self.step():
                self.advance(0.01)
        self.kill(node)
        return handed

    def step(self) -> bool:
        """One thing happens, whichever; False when there is nothing but the passing of time."""
        while self.calls:
            self.calls.popleft()()
        pairs = [pair for pair, queue in self.links.items() if queue and self.silent.get(pair, 0.0) <= self.now]
        choices = len(pairs) + len(self.jobs)
        if not choices:
            return False
        at = self.rng.randrange(choices)
        if at < len(pairs):
            self._deliver(pairs[at])
        else:
            node, call = self.jobs.pop(at - len(pairs))
            if node.alive:
                call()
                node.perform()
        return True

    def _deliver(self, pair: tuple[bytes, bytes]) -> None:
        message = self.links[pair].popleft()
        node = self.by_name[pair[1]]
        if type(message) is Chunk and self.rng.random() < self.corruption:
            data = bytearray(message.data)
            data[self.rng.randrange(len(data))] ^= 1 + self.rng.randrange(255)
            message = message._replace(data=bytes(data))
        if type(message) is StoreFree:
            node.table.on_free(pair[0], message, self.now)
        else:
            node.machine.handlers[message.CODE](pair[0], message, self.now)
        node.perform()
        self.trace.append((pair[0][0], pair[1][0], type(message).__name__))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for node in self.living:
            due = node.deadline()
            if due is not None and due <= self.now:
                node.tick()

    def run(self, seconds: float = 1000.0) -> None:
        """Until nothing happens any more, or that much time has passed."""
        end = self.now + seconds
        while self.now < end:
            if self.step():
                continue
            times = [due for node in self.living if (due := node.deadline()) is not None]
            times += [at for pair, at in self.silent.items() if at > self.now and self.links.get(pair)]
            if not times:
                return
            self.advance(max(0.0, min(*times, end) - self.now) + 1e-9)

    def check(self) -> None:
        for node in self.living:
            node.check()
