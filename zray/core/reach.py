"""How this process reaches, and is reached by, processes of other nodes: CURVE over TCP, from the first need on."""

from __future__ import annotations

from zray.transport.mesh import Mesh


class Reach:
    """The TCP side of a core process; costs nothing before its first use."""

    def __init__(self, mesh: Mesh, session_dir: str):
        self._mesh = mesh
        self._session_dir = session_dir

    def secure(self) -> None:
        """Have the keys to dial with."""

    def serve(self, host: str) -> str:
        """Bind a TCP port, once; its endpoint."""
        return ""
