"""Connections to processes of other machines that break although both ends live.  Pure.

A process that ends closes its connections, but so does a network that loses its patience: a stopped process (Ctrl-Z), a
suspended machine, a firewall that forgets.  Whether the other end lives its node knows.  So between machines a session
outlasts its connections, nothing is lost, done twice or taken for dead, and a connection that has closed means:

    we had dialled      ask our node again where that process is (Dial); it answers that it has ended, or we dial again,
                        after a pause that doubles, REDIALS_MAX times without a word from it: then it is out of reach
    it had dialled us   it will dial again, or its node tells of its end; after RETURN_S we dial it

Only what has ended, or is out of reach, is reported closed, as a peer of the same machine is at once.  A process that
is stopped and has bound no port cannot say where: then our node answers when it goes on, or ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import same_node
from zray.wire.messages import Dial
from zray.core.ports import Transport

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
        self._tries: dict[bytes, int] = {}  # peers whose connection has closed, and that were not heard of since
        self._ours: set[bytes] = set()  # peers that we have dialled
        self._losses = 0  # numbers the times that a connection closed
        self._lost: dict[bytes, int] = {}  # peer that is to come back -> number of that loss

    def dialling(self, peer: bytes) -> None:
        """We are about to dial a process of another machine."""
        self._ours.add(peer)
        self._mesh.lasting.add(peer)

    def met(self, peer: bytes) -> None:
        """It has said Hello, or answered ours: its connection is well."""
        if not same_node(peer, self._node):
            self._mesh.lasting.add(peer)
        self._tries.pop(peer, None)
        if self._lost.pop(peer, None) is not None:
            self._mesh.resume(peer)

    def closed(self, peer: bytes) -> bool:
        """The mesh says that its connection is closed: True when it may come back."""
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
        """Our node knows where it is; it is about to be dialled."""
        self._lost.pop(peer, None)

    def forget(self, peer: bytes) -> None:
        """It has ended: when its connection closes now, that is the end of it."""
        self._mesh.lasting.discard(peer)
        self._drop(peer)

    def _drop(self, peer: bytes) -> None:
        self._tries.pop(peer, None)
        self._lost.pop(peer, None)
        self._ours.discard(peer)
