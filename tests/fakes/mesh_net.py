"""Meshes in one process, over real sockets, that are turned until a condition holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zray.base.ids import new_incarnation
from zray.transport.mesh import Mesh
from zray.wire.codec import decode, encode
from zray.wire.messages import Bye

PATIENCE_S = 10.0


class MeshNet:
    """Makes meshes and turns them all until a condition holds."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.meshes: list[Mesh] = []
        self.heard: dict[bytes, list[tuple[bytes, Any]]] = {}
        self.closed: list[tuple[bytes, bytes]] = []
        self.errors: list[Exception] = []

    def mesh(self, bind: bool = True, node: bytes = b"", rest: bytes = b"", decode: Any = decode,
             **options: Any) -> Mesh:
        """``node``: the incarnation of the node that it shall belong to; ``rest``: of its own."""
        me = new_incarnation()
        me = (node or me)[:4] + (rest or me[4:])
        endpoint = f"ipc://{self.directory}/{me.hex()}" if bind else None
        mesh = Mesh(me, 1, endpoint, encode, decode, time.monotonic, **options)
        mesh.on_closed = lambda peer: self.closed.append((me, peer))
        mesh.on_error = self.errors.append
        self.meshes.append(mesh)
        self.heard[me] = []
        return mesh

    def turn(self, mesh: Mesh) -> None:
        mesh.poll(0.002)
        mesh.clear_wake()
        mesh.flush()
        mesh.drain(lambda peer, code, message: self.heard[mesh.incarnation].append((peer, message)))
        mesh.tick(mesh.clock())
        mesh.flush()

    def until(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up, "the condition did not come true"
            for mesh in self.meshes:
                if not mesh.closed:
                    self.turn(mesh)

    def reasons(self, mesh: Mesh) -> list[str]:
        return [message.reason for _, message in self.heard[mesh.incarnation]]


def say(mesh: Mesh, peer: Mesh, *reasons: str) -> None:
    for reason in reasons:
        mesh.send(peer.incarnation, Bye.CODE, Bye(reason))
