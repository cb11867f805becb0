"""Rates of transfers between the stores of nodes: ``rows()`` for the benchmark runner, JSON when run as a script.

All nodes live in this process and are joined by the codec alone (encode, decode), so this is what the daemons' own
work costs; a real link adds its socket and CURVE (0.4-0.55 GB/s each way).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import deque
from typing import Any

from zray.base.config import Config
from zray.base.ends import Ends
from zray.store.client import Allocation, StoreClient
from zray.store.node.service import StoreService
from zray.wire import codec

MIB = 1024 * 1024
SIZES = (1 * MIB, 10 * MIB, 100 * MIB)
BROADCAST = 4
WAIT_S = 60.0


class Node:
    """One node's store and one process on it."""

    def __init__(self, number: int, link: deque[Any], directory: str, capacity: int):
        self.name = bytes([number + 1]) * 4 + bytes(4)
        self.link = link
        self.soon: deque[Any] = deque()
        self.answers: deque[Any] = deque()
        self.client_name = self.name[:4] + b"\0\0\0\1"
        place = os.path.join(directory, str(number))
        os.mkdir(place, 0o700)
        self.service = StoreService.create(place, f"bench-{os.getpid()}-{number}", capacity, self._send,
                                           self.soon.append, ends=Ends(), config=Config(workers_max=4), node=self.name)
        self.to_node: deque[Any] = deque()
        slot = self.service.open_slot(self.client_name, os.getpid())
        self.client = StoreClient(self.service.attach_info(), slot, self.client_name, self.to_node.append)

    def _send(self, peer: bytes, message: Any) -> None:
        if peer == self.client_name:
            self.answers.append(message)
        else:
            self.link.append((self.name, peer, codec.encode([message.CODE, message])))

    def turn(self) -> None:
        self.client.flush()
        while self.to_node:
            message = self.to_node.popleft()
            self.service.handlers[message.CODE](self.client_name, message)
        while self.soon:
            self.soon.popleft()()
        while self.answers:
            message = self.answers.popleft()
            handler = self.client.handlers.get(message.CODE)
            if handler is not None:
                handler(self.name, message)
        due = self.service.next_deadline()
        if due is not None and due <= time.monotonic():
            self.service.tick(time.monotonic())

    def close(self) -> None:
        self.client.close()
        self.service.close()


class Nodes:
    def __init__(self, count: int, capacity: int):
        self.directory = tempfile.TemporaryDirectory(prefix="zray-bench-")
        self.link: deque[Any] = deque()
        self.nodes = [Node(number, self.link, self.directory.name, capacity) for number in range(count)]
        self.by_name = {node.name: node for node in self.nodes}

    def until(self, done: Any) -> None:
        end = time.monotonic() + WAIT_S
        while not done():
            for node in self.nodes:
                node.turn()
            for _ in range(len(self.link)):
                source, peer, frame = self.link.popleft()
                for code, message in codec.decode(frame):
                    self.by_name[peer].service.handlers[code](source, message)
            if time.monotonic() > end:
                raise TimeoutError(f"no end within {WAIT_S:g} s")

    def put(self, node: Node, nbytes: int) -> list[Any]:
        oid = os.urandom(28)
        while not isinstance(found := node.client.allocate(nbytes, oid), Allocation):
            self.until(lambda: found.waiter.done)
        found.view[:] = bytes(nbytes)
        return [*found.seal(), oid, node.name]

    def pull(self, value: list[Any], nodes: list[Node]) -> float:
        """Seconds until all of ``nodes`` have the object."""
        start = time.perf_counter()
        pending = [node.client.pull(value) for node in nodes]
        self.until(lambda: all(each.waiter.done for each in pending))
        spent = time.perf_counter() - start
        errors = [each.error for each in pending if each.error]
        if errors:
            raise RuntimeError(errors[0])
        return spent

    def free(self, value: list[Any]) -> None:
        self.nodes[0].client.free(value[4], value[:4], True)
        self.until(lambda: not any(node.service.table.names for node in self.nodes[1:]))

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.directory.cleanup()


def rows() -> list[dict[str, Any]]:
    """MB/s of one pull by size, into fresh and into warm pages; and of a broadcast, summed over its receivers."""
    out: list[dict[str, Any]] = []
    nodes = Nodes(2, 384 * MIB)
    try:
        for size in SIZES:
            for pages in ("fresh", "warm"):
                value = nodes.put(nodes.nodes[0], size)
                spent = nodes.pull(value, nodes.nodes[1:])
                nodes.free(value)
                out.append({"row": f"pull of {size // MIB} MiB, {pages} pages", "value": size / 1e6 / spent,
                            "unit": "MB/s", "link": "codec only"})
    finally:
        nodes.close()
    nodes = Nodes(1 + BROADCAST, 128 * MIB)
    try:
        for _ in range(2):
            before = nodes.nodes[0].service.transfer.serving.opened
            value = nodes.put(nodes.nodes[0], 32 * MIB)
            spent = nodes.pull(value, nodes.nodes[1:])
            nodes.free(value)
        out.append({"row": f"broadcast of 32 MiB to {BROADCAST} nodes, all in one process",
                    "value": BROADCAST * 32 * MIB / 1e6 / spent, "unit": "MB/s", "link": "codec only",
                    "copies_sent_by_the_source": nodes.nodes[0].service.transfer.serving.opened - before})
    finally:
        nodes.close()
    return out


def run() -> dict[str, Any]:
    return {"python": sys.version.split()[0], "rows": rows()}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
