"""The daemon's connections to the daemons of other nodes: dialled, redialled, given up.  Pure.

    Link     dial the node's TCP endpoint and send Hello
    answers  its libzmq has shaken hands, and answers heartbeats until the connection is closed: its process exists,
             however late its turns are
    closed   is its process still there?  A connection attempt that is refused proves that it is not: the control
             store gets that at once.  Anything else (no route, silence) is no proof: dial again, at growing
             intervals, until the nodes table has the node dead or left
    turned   a node that was well linked to us does not list our key any more: the nodes table has this node dead
    Unlink   dial no more, and hang up after a while: the node may have to learn that it has left, or was declared dead

The session to a live node outlasts its connections, so a link that breaks loses nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from zray.base.ids import TAG_SIZE
from zray.base.ports import Ports

REDIAL_S = 0.05
REDIAL_S_MAX = 1.0
PROBE_S_MAX = 2.0
# A process that dies closes its connections a moment before its port: ask again, at growing intervals, up to this.
PROBE_AGAIN_S = 0.002
PROBE_AGAIN_S_MAX = 0.1
# A node that was cut off must learn that it was declared dead.  It dials anew a connection that
# heartbeats have given up (after Limits.heartbeat_timeout_s), and is turned away.  A connection
# that outlasted the cut brings its messages when the oldest is sent again.  That may be as long
# after the cut as the cut lasted.  So: longer than both together.
HANG_UP_S = 20.0


class _Link:
    __slots__ = ("endpoint", "is_accepted", "pause_s", "probe_at", "probe_pause_s", "redial_at")

    def __init__(self, endpoint: str):
        self.endpoint = endpoint
        self.pause_s = REDIAL_S
        self.redial_at: float | None = None
        self.probe_at: float | None = None
        self.probe_pause_s = PROBE_AGAIN_S
        self.is_accepted = False  # it has answered our Hello


class LinkMesh(Protocol):
    """The part of a mesh that links need; it calls ``on_turned_away`` and ``on_answers`` with a node."""

    insecure: bool
    lasting: set[bytes]  # peers whose sessions outlast their connections
    on_turned_away: Callable[[bytes], None]
    on_answers: Callable[[bytes], None]

    def connect(self, peer: bytes, endpoint: str) -> object: ...

    def forget(self, peer: bytes) -> object: ...

    def refuse(self, tag: bytes) -> object: ...


class LinkPorts(Ports):
    """Ports of links."""

    clock: Callable[[], float]
    hello: Callable[[bytes], None]  # introduce this daemon to that node
    probe: Callable[[bytes, str], int | None]  # (node, endpoint): see zray.node.peers.probes
    end_probe: Callable[[bytes], None]
    proven_dead: Callable[[bytes], None]  # its endpoint refuses connections
    revoked: Callable[[bytes], None]  # that node refuses our key
    answers: Callable[[bytes], None]  # its process answers, until the connection is closed


class Links:
    """See the module's docstring."""

    def __init__(self, mesh: LinkMesh, ports: LinkPorts):
        self._mesh = mesh
        self._ports = ports
        self._clock = ports.clock
        mesh.on_turned_away = self._turned_away
        mesh.on_answers = self._answered
        self._links: dict[bytes, _Link] = {}
        self._probes: dict[bytes, float] = {}  # node -> when to give up the attempt
        self._unlinked: dict[bytes, float] = {}  # node -> when to hang up

    def link(self, node: bytes, endpoint: str) -> None:
        if node in self._links:
            return
        self._links[node] = _Link(endpoint)
        self._mesh.lasting.add(node)
        self._dial(node)

    def unlink(self, node: bytes) -> None:
        self._links.pop(node, None)
        self._end_probe(node)
        self._unlinked[node] = self._clock() + HANG_UP_S

    def _hang_up(self, node: bytes) -> None:
        del self._unlinked[node]
        self._mesh.lasting.discard(node)
        self._mesh.forget(node)
        if not self._mesh.insecure:  # without keys the node may come back, to learn that it has ended
            self._mesh.refuse(node[:TAG_SIZE])

    def closed(self, node: bytes) -> bool:
        """The mesh reports a connection closed; False when it is not one of these."""
        link = self._links.get(node)
        if link is None:
            if node in self._unlinked:
                self._hang_up(node)
            return False
        if link.redial_at is None:  # messages in the meantime get the same refusal, and must not postpone it for ever
            link.redial_at = self._clock() + link.pause_s
            link.pause_s = min(link.pause_s * 2, REDIAL_S_MAX)
        if node not in self._probes and link.probe_at is None:
            link.probe_pause_s = PROBE_AGAIN_S
            self._probe(node, link.endpoint)
        return True

    def welcomed(self, node: bytes) -> None:
        """That node has answered our Hello: the link works."""
        link = self._links.get(node)
        if link is not None:
            link.is_accepted = True
            link.pause_s = REDIAL_S

    def _answered(self, node: bytes) -> None:
        """For a link that waits to be dialled again this is old news."""
        link = self._links.get(node)
        if link is not None and link.redial_at is None:
            self._ports.answers(node)

    def _turned_away(self, node: bytes) -> None:
        """Before its first welcome a node may not know us yet; after it, a refusal is a revocation."""
        link = self._links.get(node)
        if link is not None and link.is_accepted:
            self._ports.revoked(node)

    def next_deadline(self) -> float | None:
        times = list(self._unlinked.values())
        for link in self._links.values():
            if link.redial_at is not None:
                times.append(link.redial_at)
            if link.probe_at is not None:
                times.append(link.probe_at)
        times += self._probes.values()
        return min(times, default=None)

    def tick(self, now: float) -> None:
        for node, until in list(self._probes.items()):
            if until <= now:
                self._end_probe(node)
        for node in [node for node, until in self._unlinked.items() if until <= now]:
            self._hang_up(node)
        for node, link in list(self._links.items()):
            if link.redial_at is not None and link.redial_at <= now:
                link.redial_at = None
                self._dial(node)
            if link.probe_at is not None and link.probe_at <= now:
                link.probe_at = None
                self._probe(node, link.endpoint)

    def _dial(self, node: bytes) -> None:
        self._mesh.connect(node, self._links[node].endpoint)
        self._ports.hello(node)

    # ------------------------------------------------------------ probes

    def _probe(self, node: bytes, endpoint: str) -> None:
        self._probes[node] = self._clock() + PROBE_S_MAX
        error = self._ports.probe(node, endpoint)
        if error is not None:
            self.probed(node, error)

    def probed(self, node: bytes, error: int) -> None:
        """The result of an attempt to connect."""
        if self._probes.pop(node, None) is None:
            return
        link = self._links.get(node)
        if link is None:
            return
        if error == errno.ECONNREFUSED:
            self._ports.proven_dead(node)
        elif not error and link.probe_pause_s <= PROBE_AGAIN_S_MAX:
            link.probe_at = self._clock() + link.probe_pause_s
            link.probe_pause_s *= 2

    def _end_probe(self, node: bytes) -> None:
        if self._probes.pop(node, None) is not None:
            self._ports.end_probe(node)
