"""The daemon's connections to the daemons of other nodes: dialled, dialled again, given up.

    Link     dial the node's TCP endpoint and say Hello
    answers  its libzmq has shaken hands, and answers heartbeats until the connection is closed: its process is there,
             however late its turns are
    closed   is its process still there?  A connection attempt that is refused proves that it is not: the control store
             is told at once.  Anything else (no route, silence) is no proof: dial again, at growing intervals, until
             the nodes table says that the node is gone
    turned   a node that was well linked to us does not list our key any more: the nodes table says that we have ended
    Unlink   dial no more, and hang up after a while: it may have to be told that it has left, or was declared dead

The session to a live node outlasts its connections, so a link that breaks loses nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable

from zray import messages as m
from zray.ids import TAG_SIZE
from zray.node.children import Watcher
from zray.transport.curve import parse_endpoint, split_host_port
from zray.transport.mesh import Mesh

REDIAL_S = 0.05
REDIAL_S_MAX = 1.0
PROBE_S_MAX = 2.0
# A process that dies closes its connections a moment before its port: ask again, at growing intervals, up to this.
PROBE_AGAIN_S = 0.002
PROBE_AGAIN_S_MAX = 0.1
# A node that was cut off must hear that it was declared dead.  A connection that heartbeats have given up (after
# Limits.heartbeat_timeout_s) it dials anew, and is turned away; one that outlasted the cut brings us its messages as
# soon as the oldest is sent again, which may be as long after the cut as it lasted.  So: longer than both together.
FAREWELL_S = 20.0


class _Link:
    __slots__ = ("endpoint", "pause_s", "probe_at", "probe_pause_s", "redial_at", "welcome")

    def __init__(self, endpoint: str):
        self.endpoint = endpoint
        self.pause_s = REDIAL_S
        self.redial_at: float | None = None
        self.probe_at: float | None = None
        self.probe_pause_s = PROBE_AGAIN_S
        self.welcome = False  # it has answered our Hello


class Links:
    """See the module's docstring.

    ``proven_dead(node)`` is told when an endpoint refuses connections, ``revoked(node)`` when a node refuses us,
    ``answers(node)`` when its process answers, which ends with ``closed``.
    """

    def __init__(self, mesh: Mesh, watcher: Watcher, clock: Callable[[], float],
                 proven_dead: Callable[[bytes], None], revoked: Callable[[bytes], None],
                 answers: Callable[[bytes], None]):
        self._mesh = mesh
        self._watcher = watcher
        self._clock = clock
        self._proven_dead = proven_dead
        self._revoked = revoked
        self._answers = answers
        mesh.on_turned_away = self._turned_away
        mesh.on_answers = self._answered
        self._links: dict[bytes, _Link] = {}
        self._probes: dict[bytes, tuple[socket.socket, float]] = {}
        self._parting: dict[bytes, float] = {}  # unlinked -> when to hang up

    def link(self, node: bytes, endpoint: str) -> None:
        if node in self._links:
            return
        self._links[node] = _Link(endpoint)
        self._mesh.lasting.add(node)
        self._dial(node)

    def unlink(self, node: bytes) -> None:
        self._links.pop(node, None)
        self._end_probe(node)
        self._parting[node] = self._clock() + FAREWELL_S

    def _hang_up(self, node: bytes) -> None:
        del self._parting[node]
        self._mesh.lasting.discard(node)
        self._mesh.forget(node)
        if not self._mesh.insecure:  # without keys it may come back, to be told that it has ended
            self._mesh.refuse(node[:TAG_SIZE])

    def closed(self, node: bytes) -> bool:
        """The mesh says that a connection is closed; False when it is not one of these."""
        link = self._links.get(node)
        if link is None:
            if node in self._parting:
                self._hang_up(node)
            return False
        if link.redial_at is None:  # whatever is sent meanwhile is told the same, and must not put it off for ever
            link.redial_at = self._clock() + link.pause_s
            link.pause_s = min(link.pause_s * 2, REDIAL_S_MAX)
        if node not in self._probes and link.probe_at is None:
            link.probe_pause_s = PROBE_AGAIN_S
            self._probe(node, link.endpoint)
        return True

    def welcomed(self, node: bytes) -> None:
        """That node has answered our Hello: its link is well."""
        link = self._links.get(node)
        if link is not None:
            link.welcome = True
            link.pause_s = REDIAL_S

    def _answered(self, node: bytes) -> None:
        """Of a link that waits to be dialled again this is old news."""
        link = self._links.get(node)
        if link is not None and link.redial_at is None:
            self._answers(node)

    def _turned_away(self, node: bytes) -> None:
        """Before its first welcome a node may not have heard of us yet; after it, it takes a revocation."""
        link = self._links.get(node)
        if link is not None and link.welcome:
            self._revoked(node)

    def next_deadline(self) -> float | None:
        times = list(self._parting.values())
        for link in self._links.values():
            if link.redial_at is not None:
                times.append(link.redial_at)
            if link.probe_at is not None:
                times.append(link.probe_at)
        times += [until for _, until in self._probes.values()]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        for node, (_, until) in list(self._probes.items()):
            if until <= now:
                self._end_probe(node)
        for node in [node for node, until in self._parting.items() if until <= now]:
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
        python = ".".join(map(str, sys.version_info[:3]))
        self._mesh.send(node, m.Hello.CODE, m.Hello(
            m.PROTOCOL, "node", self._mesh.endpoint, os.getpid(), 0, python, list(m.FEATURES)))

    # ------------------------------------------------------------ is anybody there?

    def _probe(self, node: bytes, endpoint: str) -> None:
        host, port = split_host_port(parse_endpoint(endpoint).address.removeprefix("tcp://"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            probe = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            return  # out of descriptors: silence will tell
        error = probe.connect_ex((host, port))
        if error != errno.EINPROGRESS:
            probe.close()
            self._judge(node, error)
            return
        self._probes[node] = probe, self._clock() + PROBE_S_MAX
        self._watcher.add(probe.fileno(), lambda: self._probed(node))
        self._watcher.want_write(probe.fileno(), True)

    def _probed(self, node: bytes) -> None:
        probe, _ = self._probes[node]
        error = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._end_probe(node)
        self._judge(node, error)

    def _judge(self, node: bytes, error: int) -> None:
        link = self._links.get(node)
        if link is None:
            return
        if error == errno.ECONNREFUSED:
            self._proven_dead(node)
        elif not error and link.probe_pause_s <= PROBE_AGAIN_S_MAX:
            link.probe_at = self._clock() + link.probe_pause_s
            link.probe_pause_s *= 2

    def _end_probe(self, node: bytes) -> None:
        probe = self._probes.pop(node, None)
        if probe is not None:
            self._watcher.remove(probe[0].fileno())
            probe[0].close()

    def close(self) -> None:
        for node in list(self._probes):
            self._end_probe(node)
