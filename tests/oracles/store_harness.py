"""A node's store with several clients in one process: messages, threads and the clock are the test's to move."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from itertools import count
from typing import Any

from zray.base.config import Config
from zray.base.ends import Ends
from zray.store.client import Allocation, StoreClient
from zray.store.node.service import StoreService
from zray.store.node.spill import LocalFiles, Spiller, _run

_sessions = count()


class SteppedSpiller(Spiller):
    """Runs its calls when told to, and fails them when told to."""

    def __init__(self, files: LocalFiles):
        super().__init__(files)
        self.calls: deque[Any] = deque()

    def run(self, call, done):
        self.calls.append((call, done))

    def step(self, error: str = "") -> None:
        call, done = self.calls.popleft()
        if error:
            done(error)
            return
        _run(call, done)

    def close(self) -> None:
        self.files.close()


class Peer:
    """One core process: its client and the two directions of its connection."""

    def __init__(self, harness: Harness, incarnation: bytes):
        self.incarnation = incarnation
        self.to_node: deque[Any] = deque()
        self.from_node: deque[Any] = deque()
        slot = harness.service.open_slot(incarnation, os.getpid())
        self.client = StoreClient(harness.service.attach_info(), slot, incarnation, self.to_node.append)


class Harness:
    def __init__(self, capacity: int = 4 * 1024 * 1024, node: bytes = b"", ports: dict[str, Any] | None = None,
                 overflow_bytes: int = 0, **settings: Any):
        self.now = 0.0
        self.to_nodes: deque[tuple[bytes, Any]] = deque()  # messages to other nodes
        self._joined = 0
        self.directory = tempfile.TemporaryDirectory(prefix="zray-test-")
        self.peers: dict[bytes, Peer] = {}
        self.loop: deque[Any] = deque()
        self.session = f"test-{os.getpid()}-{next(_sessions)}"
        config = Config(**{"extent_bytes": 64 * 1024, "arena_step_bytes": 1024 * 1024, "workers_max": 8,
                           "store_full_wait_s": 5.0, **settings})
        self.ends = Ends()
        self.service = StoreService.create(self.directory.name, self.session, capacity, self._send, self.loop.append,
                                           ends=self.ends, config=config, clock=lambda: self.now, node=node,
                                           overflow_bytes=overflow_bytes, **(ports or {}))
        self.spiller = self.service.spiller = SteppedSpiller(LocalFiles(os.path.join(self.directory.name, "spill")))
        self._oids = count(1)

    def _send(self, client: bytes, message: Any) -> None:
        if client in self.peers:
            self.peers[client].from_node.append(message)
        else:
            self.to_nodes.append((client, message))

    def join(self) -> Peer:
        self._joined += 1
        incarnation = self._joined.to_bytes(8, "big")
        peer = self.peers[incarnation] = Peer(self, incarnation)
        return peer

    def kill(self, peer: Peer) -> None:
        """The process dies: what it had sent still arrives, as the daemon drains the connection first."""
        while peer.to_node:
            self.step_to_node(peer)
        peer.client.close()
        del self.peers[peer.incarnation]
        self.service.close_slot(peer.incarnation)

    def step_to_node(self, peer: Peer) -> None:
        message = peer.to_node.popleft()
        self.service.handlers[message.CODE](peer.incarnation, message)

    def step_from_node(self, peer: Peer) -> None:
        message = peer.from_node.popleft()
        peer.client.handlers[message.CODE](self.service.attach_info()["arena"].encode(), message)

    def settle(self) -> None:
        """Deliver and run everything, without moving the clock."""
        busy = True
        while busy:
            busy = False
            for peer in list(self.peers.values()):
                peer.client.flush()
                while peer.to_node:
                    self.step_to_node(peer)
                    busy = True
                while peer.from_node:
                    self.step_from_node(peer)
                    busy = True
            while self.spiller.calls:
                self.spiller.step()
                busy = True
            while self.loop:
                self.loop.popleft()()
                busy = True

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.service.tick(self.now)

    def run(self, seconds: float) -> None:
        """Settle and advance from deadline to deadline."""
        end = self.now + seconds
        while True:
            self.settle()
            due = self.service.next_deadline()
            if due is None or due > end:
                break
            self.advance(max(0.0, due - self.now))
        self.now = end

    def new_oid(self) -> bytes:
        return next(self._oids).to_bytes(28, "big")

    def put(self, peer: Peer, data: bytes, oid: bytes | None = None) -> tuple[bytes, list[Any]]:
        """Store ``data``, waiting for room.  StoreFull when refused."""
        oid = oid or self.new_oid()
        while not isinstance(found := peer.client.allocate(len(data), oid), Allocation):
            self.settle()
            while not found.waiter.done:
                due = self.service.next_deadline()
                assert due is not None, "waits for nothing"
                self.advance(max(0.0, due - self.now))
                self.settle()
        found.view[:] = data
        return oid, found.seal()

    def get(self, peer: Peer, oid: bytes, value: list[Any]) -> memoryview | list[Any]:
        """The object's buffer, restored if need be; its error value when it cannot be had."""
        while (view := peer.client.read(value, oid)) is None:
            pending = peer.client.restore(oid, value)
            self.settle()
            while not pending.waiter.done:
                due = self.service.next_deadline()
                assert due is not None, "waits for nothing"
                self.advance(max(0.0, due - self.now))
                self.settle()
            if pending.error:
                return pending.value
            value = pending.value
        return view

    def check(self) -> None:
        self.service.check()
        for peer in self.peers.values():
            peer.client.check()

    def close(self) -> None:
        for peer in self.peers.values():
            peer.client.close()
        self.service.close()
        self.directory.cleanup()
        left = [name for name in os.listdir("/dev/shm") if self.session in name]
        assert not left, left
