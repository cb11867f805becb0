"""Serving objects to other nodes: the source's half of a transfer.

A session is one attempt of one node to pull one object from here.  Whole objects are served, and objects that still
come in: a chunk that is not here yet is sent when it arrives.  A node that serves FANOUT sessions of an object refers
further askers to the nodes it serves, and to nodes with complete copies.  So a broadcast is a tree, through which
chunks flow while the object is still in flight.

No cycles: a node that others pull from may only pull from a node that is complete or has more chunks than itself.
(Two nodes could still each wait for chunks that the other lacks: the puller's STALL_S ends that.)

Chunks sent and not acknowledged are bounded (OUT_CHUNKS_MAX); sessions take turns, one chunk each.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol
from zlib import crc32

from zray.store.node.records import FULL_REASON
from zray.store.transfer.copies import COMING, GONE, Copies
from zray.store.transfer.exchange import (
    ABSENT,
    AVOID_MAX,
    BEHIND,
    BUSY,
    FANOUT,
    FREED,
    OUT_CHUNKS_MAX,
    PULL_WINDOW,
    SESSION_IDLE_S,
    SESSIONS_MAX,
    STALE,
    ObjectKey,
    SendToNode,
)
from zray.wire.messages import Chunk, PullChunk, PullElsewhere, PullObject, PullRefused, PullWait

ELSEWHERE_MAX = 3  # nodes named to an asker


class Partial(Protocol):
    """An object that is coming in."""

    have: bytearray  # 1 for each chunk that is here
    received: int


class PullSession:
    __slots__ = ("heard_at", "key", "number", "parked", "puller", "queued", "ready", "received", "sent", "wanted")

    def __init__(self, puller: bytes, number: int, key: ObjectKey, now: float):
        self.puller = puller
        self.number = number
        self.key = key
        self.wanted: deque[int] = deque()  # chunks to send
        self.parked: set[int] = set()  # asked for, and not here yet
        self.sent = 0
        self.received = 0  # of the sent, as far as we know
        self.ready = True  # False while the object is read back from disk
        self.queued = False  # for its turn
        self.heard_at = now


class Serving:
    """All sessions of this node."""

    def __init__(self, me: bytes, copies: Copies, out: list[Any], chunk_bytes: int):
        self.chunk_bytes = chunk_bytes  # the same on all nodes of a cluster
        self.me = me
        self.copies = copies
        self.out = out
        self.sessions: dict[tuple[bytes, int], PullSession] = {}
        self.of: dict[ObjectKey, dict[bytes, PullSession]] = {}  # by object and puller
        # The directory's: nodes with whole copies of our primaries.
        self.complete: dict[ObjectKey, dict[bytes, None]] = {}
        self.partial: dict[ObjectKey, Any] = {}  # the pulls': objects that come in
        self.out_chunks = 0
        self.sweep_at: float | None = None
        self.opened = 0  # sessions, for tests and metrics
        self.redirected = 0
        self.chunks = 0  # sent
        self._turns: deque[PullSession] = deque()
        self._referred: dict[ObjectKey, dict[bytes, int]] = {}  # how many askers were referred to each node

    # ------------------------------------------------------------ messages

    def on_pull(self, peer: bytes, message: PullObject, now: float) -> None:
        self._open(peer, message, now)
        self.pump()  # also when it is refused: an older attempt of the same node may have ended

    def _open(self, peer: bytes, message: PullObject, now: float) -> None:
        key = ObjectKey(message.oid, message.node, message.generation)
        old = self.of.get(key, {}).get(peer)
        if old is not None:
            self._end(old)
        partial = self.partial.get(key)
        state = self.copies.find(key, message.offset, now) if partial is None else COMING
        if state == GONE:
            if key.node == self.me:
                self._refuse(peer, message.pull, FREED, "the object is not in the store any more")
            else:
                self._refuse(peer, message.pull, ABSENT, "no copy is here")
            return
        if partial is not None and 0 <= partial.received <= message.have:
            self._refuse(peer, message.pull, BEHIND, "it is still coming in here")
            return
        elsewhere = self._elsewhere(key, peer, message.avoid)
        if elsewhere:
            self.redirected += 1
            self.out.append(SendToNode(peer, PullElsewhere(message.pull, elsewhere)))
            return
        if len(self.sessions) >= SESSIONS_MAX:
            self._refuse(peer, message.pull, BUSY, f"it serves {SESSIONS_MAX} objects already")
            return
        session = PullSession(peer, message.pull, key, now)
        self.opened += 1
        self.sessions[peer, message.pull] = session
        self.of.setdefault(key, {})[peer] = session
        self.copies.hold(key, message.offset)
        if self.sweep_at is None:
            self.sweep_at = now + SESSION_IDLE_S
        if partial is None and state == COMING:
            session.ready = False
            self.out.append(SendToNode(peer, PullWait(message.pull, "it is being read back from disk")))
        self._want(session, message.chunks)

    def on_chunk_wanted(self, peer: bytes, message: PullChunk, now: float) -> None:
        session = self.sessions.get((peer, message.pull))
        if session is None:
            self._refuse(peer, message.pull, STALE, "that transfer is over")
            return
        session.heard_at = now
        received = max(session.received, min(message.received, session.sent))
        self.out_chunks -= received - session.received
        session.received = received
        self._want(session, message.chunks)
        self.pump()

    def on_end(self, peer: bytes, pull: int) -> None:
        session = self.sessions.get((peer, pull))
        if session is not None:
            self._end(session)
            self.pump()

    # ------------------------------------------------------------ events of this node

    def restored(self, key: ObjectKey, error: str) -> None:
        """The object is back from disk, or cannot be read."""
        if error.startswith(FULL_REASON):
            error = f"{FULL_REASON}node {self.me.hex()} has the object on its disk and " + error[len(FULL_REASON) :]
        for session in list(self.of.get(key, {}).values()):
            if not session.ready and error:
                self._refuse_session(session, ABSENT, error)
            elif not session.ready:
                session.ready = True
                self._queue(session)
        self.pump()

    def arrived(self, key: ObjectKey, index: int) -> None:
        """A chunk of an object that is coming in."""
        waiting = False
        for session in self.of.get(key, {}).values():
            if index in session.parked:
                session.parked.discard(index)
                session.wanted.append(index)
                self._queue(session)
                waiting = True
        if waiting:
            self.pump()

    def ended(self, key: ObjectKey, code: int, why: str) -> None:
        """The object is not here any more, or will not be."""
        for session in list(self.of.get(key, {}).values()):
            self._refuse_session(session, code, why)
        self.pump()

    def node_ended(self, node: bytes) -> None:
        for session in [session for session in self.sessions.values() if session.puller == node]:
            self._end(session)
        self.pump()

    def tick(self, now: float) -> None:
        if self.sweep_at is None or now < self.sweep_at:
            return
        for session in list(self.sessions.values()):
            if now >= session.heard_at + SESSION_IDLE_S:
                self._refuse_session(session, STALE, "nothing was heard for a while")
        if self.sessions:
            self.sweep_at = now + SESSION_IDLE_S
        self.pump()

    # ------------------------------------------------------------ chunks

    def _want(self, session: PullSession, chunks: list[int]) -> None:
        partial = self.partial.get(session.key)
        room = 2 * PULL_WINDOW - len(session.wanted) - len(session.parked)
        for index in chunks[: max(room, 0)]:
            if type(index) is not int or index < 0:
                continue
            if partial is not None and (index >= len(partial.have) or not partial.have[index]):
                session.parked.add(index)
            else:
                session.wanted.append(index)
        self._queue(session)

    def _queue(self, session: PullSession) -> None:
        if session.wanted and session.ready and not session.queued:
            session.queued = True
            self._turns.append(session)

    def pump(self) -> None:
        """Send the chunks that the limits allow."""
        while self._turns and self.out_chunks < OUT_CHUNKS_MAX:
            session = self._turns.popleft()
            session.queued = False
            index = session.wanted.popleft()
            data = self.copies.read(session.key, index * self.chunk_bytes, self.chunk_bytes)
            if data is None:
                code = FREED if session.key.node == self.me else ABSENT
                self._refuse_session(session, code, "the object is not in the store any more")
                continue
            session.sent += 1
            self.chunks += 1
            self.out_chunks += 1
            self.out.append(SendToNode(session.puller, Chunk(session.number, index, crc32(data), data)))
            self._queue(session)

    # ------------------------------------------------------------ sessions

    def _elsewhere(self, key: ObjectKey, peer: bytes, avoid: list[bytes]) -> list[bytes]:
        """The nodes to ask instead: those that fewest were referred to.  None when this node may serve another."""
        serving = self.of.get(key, {})
        if len(serving) < FANOUT or len(avoid) >= AVOID_MAX:
            return []
        referred = self._referred.setdefault(key, {})
        known = dict.fromkeys([*serving, *self.complete.get(key, ())])
        nodes = sorted((node for node in known if node != peer and node not in avoid),
                       key=lambda node: referred.get(node, 0))[:ELSEWHERE_MAX]
        if nodes:
            referred[nodes[0]] = referred.get(nodes[0], 0) + 1
        return nodes

    def _refuse(self, peer: bytes, pull: int, code: int, why: str) -> None:
        self.out.append(SendToNode(peer, PullRefused(pull, code, why)))

    def _refuse_session(self, session: PullSession, code: int, why: str) -> None:
        self._end(session)
        self._refuse(session.puller, session.number, code, why)

    def _end(self, session: PullSession) -> None:
        del self.sessions[session.puller, session.number]
        if not self.sessions:
            self.sweep_at = None
        self.out_chunks -= session.sent - session.received
        if session.queued:
            session.queued = False
            self._turns.remove(session)
        serving = self.of[session.key]
        if serving.get(session.puller) is session:
            del serving[session.puller]
        if not serving:
            del self.of[session.key]
            self._referred.pop(session.key, None)
            self.copies.release(session.key)

    def check(self) -> None:
        assert self.out_chunks == sum(session.sent - session.received for session in self.sessions.values())
        assert 0 <= self.out_chunks <= OUT_CHUNKS_MAX
        assert {id(s) for of in self.of.values() for s in of.values()} == {id(s) for s in self.sessions.values()}
        assert set(self.copies.held) == set(self.of)
        assert len(self._turns) == sum(session.queued for session in self.sessions.values())
        assert not self._turns or self.out_chunks >= OUT_CHUNKS_MAX, "chunks wait though they could be sent"
        for session in self._turns:
            assert session.queued and session.wanted and session.ready
        for key, of in self.of.items():
            assert of
            partial = self.partial.get(key)
            for session in of.values():
                assert partial is not None or not session.parked, "a parked chunk of an object that is complete"
                assert len(session.wanted) + len(session.parked) <= 2 * PULL_WINDOW
