"""Frames that reach their destination through other processes, where a machine has only one open port.

    core process a1  -- its node A --  node B  --  core process b1 of B

Sessions stay end to end, between a1 and b1: numbers, acknowledgement, credit and resending are
theirs.  A relay looks at the envelope only and passes a frame on unchanged.  When the high-water
mark of the next hop is reached it drops the frame, with a count, and the session sends it again.
Without a way it answers GONE, and the sender reports the peer closed.

Which source of a frame to believe, when it is not the peer of the connection:

    receiver                       believes
    a core process                 its own relays: ``hops``, and the next hop of a source that it has set (``via``)
    a node (it has ``relay``)      besides, another node about that node's own processes

A node passes on only from or to processes of its own, so no frame goes round in circles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from zray.transport.peers import PeerTable

_TAG = 4
_NODE = bytes(4)


class Relaying:
    """Next hops, and the decision about a frame that is not between the two ends of its connection.  Pure."""

    def __init__(self, incarnation: bytes, counters: Counter[str], next_hops_max: int, peers: PeerTable):
        self.relay: Callable[[bytes], bytes | None] | None = None  # destination -> next hop
        self.hops: set[bytes] = set()
        self._peers = peers
        self._incarnation = incarnation
        self._counters = counters
        self._max = next_hops_max

    def accept(self, hop: bytes, source: bytes) -> bool:
        """Whether to believe a frame for us from ``source`` by the connection to ``hop``, and answer that way."""
        if not self._believes(hop, source) or (not self._peers.hop(source) and self._peers.hops >= self._max):
            self._counters["misdirected"] += 1
            return False
        return True

    def next_hop(self, hop: bytes, source: bytes, destination: bytes) -> bytes | None:
        """The next hop of a frame for another process: b'' when there is no way, None when it may not pass at all."""
        own = self._incarnation[:_TAG]
        if self.relay is None or not self._believes(hop, source) or own not in (source[:_TAG], destination[:_TAG]):
            self._counters["misdirected"] += 1
            return None
        found = self.relay(destination)
        return b"" if found is None or found == hop else found

    def _believes(self, hop: bytes, source: bytes) -> bool:
        if source == hop or hop in self.hops or self._peers.hop(source) == hop:
            return True
        return self.relay is not None and hop[_TAG:] == _NODE and source[:_TAG] == hop[:_TAG]
