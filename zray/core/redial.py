"""Connections to processes of other machines that break although both ends live.  Pure.

A process that ends closes its connections.  But a connection also closes when a process is stopped (Ctrl-Z), when a
machine is suspended, or when a firewall drops its state.  Only the node of the other process knows whether it lives.
So between machines a session outlasts its connections: no message is lost or handled twice, and no live process
counts as dead.  When a connection closes:

    we had dialled      ask our node again where that process is (Dial).  It answers that the process has ended, or
                        we dial again, after a pause that doubles.  After REDIALS_MAX attempts without an answer the
                        process is out of reach
    it had dialled us   the process dials again, or its node reports its end; after RETURN_S we dial it

Only a process that has ended or is out of reach is reported closed.  (A peer of the same machine is reported at
once.)  A stopped process that has bound no port has no endpoint; our node answers when it continues or ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import same_node
from zray.core.ports import Transport
from zray.wire.messages import Dial

REDIAL_PAUSE_S = 0.05
REDIALS_MAX = 6  # within 1.6 s, besides what connection attempts take
RETURN_S = 5.0


class Redial:
    """See the module's docstring.  ``later(seconds, action)`` sets a timer, ``hello(peer)`` says Hello to a peer."""

    def __init__(self, mesh: Transport, node: bytes, send: Callable[[bytes, Any], None], hello: Callable[[bytes], None],
                 later: Callable[[float, Callable[[], None]], Any]):
        self._mesh = mesh
        self._node = node
        self._send, self._hello, self._later = send, hello, later
        self._tries: dict[bytes, int] = {}  # peer without a message since its connection closed -> redials
        self._ours: set[bytes] = set()  # peers that we have dialled
        self._losses = 0  # how often a connection has closed
        self._lost: dict[bytes, int] = {}  # peer that may come back -> number of that loss

    def dialling(self, peer: bytes) -> None:
        """We are about to dial a process of another machine."""
        self._ours.add(peer)
        self._mesh.lasting.add(peer)

    def heard_from(self, peer: bytes) -> None:
        """A Hello, or the answer to ours, has come: the connection works."""
        if not same_node(peer, self._node):
            self._mesh.lasting.add(peer)
        self._tries.pop(peer, None)
        if self._lost.pop(peer, None) is not None:
            self._mesh.resume(peer)

    def closed(self, peer: bytes) -> bool:
        """The mesh reports a closed connection.  Returns whether it may come back."""
        if peer not in self._mesh.lasting:
            self._drop(peer)
            return False
        if peer in self._lost:
            return True
        tries = self._tries[peer] = self._tries.get(peer, 0) + 1
        if tries > REDIALS_MAX:
            self.forget(peer)
            self._mesh.forget(peer)
            return False
        self._losses += 1
        self._lost[peer] = self._losses
        self._mesh.hold(peer)
        pause = REDIAL_PAUSE_S * 2 ** (tries - 2) if tries > 1 else 0.0
        loss = self._losses
        self._later(pause if peer in self._ours else RETURN_S, lambda: self._dial(peer, loss))
        return True

    def _dial(self, peer: bytes, loss: int) -> None:
        if self._lost.get(peer) == loss:
            self._ours.add(peer)
            self._send(self._node, Dial(peer))
            self._hello(peer)

    def found(self, peer: bytes) -> None:
        """Our node has answered with an endpoint, which is dialled next."""
        self._lost.pop(peer, None)

    def forget(self, peer: bytes) -> None:
        """The process has ended: when its connection closes now, it does not come back."""
        self._mesh.lasting.discard(peer)
        self._drop(peer)

    def _drop(self, peer: bytes) -> None:
        self._tries.pop(peer, None)
        self._lost.pop(peer, None)
        self._ours.discard(peer)
