"""TCP connections with processes of other nodes, encrypted by CURVE, from the first need on.

The keys and the allow-list are those of the node.  They are files of the session directory that only this user can
read.
"""

from __future__ import annotations

import logging

from zray.transport.mesh import Mesh
from zray.wire.messages import BindTcp
from zray.wire.messages.cluster import RELAYED

logger = logging.getLogger("zray")


class Reach:
    """The TCP side of a core process; it costs nothing before its first use."""

    def __init__(self, mesh: Mesh, node: bytes, session_dir: str):
        self._mesh = mesh
        self._node = node
        mesh.relaying.hops.add(node)
        self._session_dir = session_dir

    def dial(self, peer: bytes, endpoint: str) -> None:
        """Connect to a process of another node, at the endpoint that our node sent."""
        if endpoint == RELAYED:
            self._mesh.via(peer, self._node)
            return
        from zray.transport import curve

        self._mesh.insecure = not curve.parse_endpoint(endpoint).key
        self.secure()
        self._mesh.connect(peer, endpoint)

    def secure(self) -> None:
        """Load the keys for dialling; BadKeyFile when the session directory does not have them."""
        if self._mesh.keys is None and not self._mesh.insecure:
            from zray.transport.credentials import Credentials

            Credentials.load(self._session_dir).equip(self._mesh)

    def serve(self, request: BindTcp) -> str:
        """Bind a TCP port, once.  Returns its endpoint, or '' when that is impossible (the log says why)."""
        try:
            self._mesh.insecure = request.insecure
            self.secure()
            low, high = request.ports or (0, 0)
            return self._mesh.serve_tcp(request.host, (low, high))
        except (OSError, ValueError, TypeError) as error:
            logger.error("processes of other nodes cannot reach this one: %s", error)
            return ""
