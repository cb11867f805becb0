"""The control store's rows of object locations, as the store service's transfers need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zray.gcs.client.client import Call, GcsClient


class GcsLocations:
    """``client`` is called at each use: the store service is made before the control store."""

    def __init__(self, client: Callable[[], GcsClient]):
        self.client = client
        self.unwritten = 0  # rows that the store has not acknowledged

    def record(self, oid: bytes, nodes: list[bytes]) -> None:
        """Write the nodes that have copies; without any, delete the row."""
        def done(call: Call) -> None:
            self.unwritten -= 1

        self.unwritten += 1
        self.client().record_location(oid, {"nodes": nodes} if nodes else None, done)

    def find(self, oid: bytes, then: Callable[[list[bytes]], None]) -> None:
        """``then(nodes)``; empty also when the control store does not answer: the caller tries again."""

        def done(call: Call) -> None:
            nodes = (call.value or {}).get("nodes", ()) if not call.error else ()
            then([node for node in nodes if type(node) is bytes])

        self.client().get_location(oid, done)
