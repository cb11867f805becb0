"""The ways of a mesh through shared memory (zray.channels): which peers have one, offered and accepted.

    cold       HEAT_FRAMES frames of a peer that we dialled by ipc come within HEAT_S
    offered    a frame OFFER names a path to it; what is not taken within WITHDRAW_S is withdrawn
    hot        both ends use it: frames go by the ring while they fit and it has room, else by ZeroMQ
    gone       the peer has ended or is forgotten, its end has closed, or its ring is broken

Sessions number the frames of both ways, so their order, duplicates and acknowledgements are theirs.  A way that goes
loses no frame: those in the ring are read first, and others are sent again.  A peer that does not know OFFER ignores
it.  Node daemons have no such ways: they serve all, and must not spin.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from zray.channels.duplex import Duplex, DuplexAnswer, DuplexOffer, Refused
from zray.channels.ring import PUBLISHED, RingReader
from zray.transport.peers import PeerRecord

HEAT_FRAMES, HEAT_S = 16, 0.05
REST_S = 0.5  # between two looks for ways at rest: with less, those of many peers that talk in turn would all go
WITHDRAW_S = 5.0
_NODE = 4  # bytes of an incarnation that name its node; those of a daemon end in zeros
_PREFIX = "c-"


class SharedWay:
    """A way to one peer.  ``ending``: its other end has closed."""

    __slots__ = ("duplex", "ending", "peer", "reader", "used", "writer")

    def __init__(self, peer: bytes, duplex: Duplex):
        self.peer = peer
        self.duplex = duplex
        self.reader = duplex.reader
        self.writer = duplex.writer
        self.ending = False
        self.used = -1  # frames of both directions at the last look


class SharedWays:
    """``register(fd)`` and ``unregister(fd)``: the descriptors that the process polls; ``changed(readers)``: its rings.

    ``endpoint``: of this process; offers lie beside it.  ``ways_max``: ways and offers, 0 for none.
    """

    def __init__(self, endpoint: str, ways_max: int, register: Callable[[int], None],
                 unregister: Callable[[int], None], changed: Callable[[tuple[RingReader, ...]], None]):
        self._folder = os.path.dirname(endpoint.removeprefix("ipc://"))
        self.ways_max = ways_max
        self.ways: dict[bytes, SharedWay] = {}
        self.list: tuple[SharedWay, ...] = ()
        self._by_fd: dict[int, SharedWay] = {}
        self._offers: dict[int, tuple[bytes, DuplexOffer, float]] = {}
        self._answers: dict[int, tuple[bytes, DuplexAnswer]] = {}
        self._no_offer_until = 0.0  # after one that failed here
        self._looked_at = 0.0  # for ways at rest
        self._register, self._unregister, self._tell = register, unregister, changed

    def __len__(self) -> int:
        return len(self.ways) + len(self._offers) + len(self._answers)

    # ------------------------------------------------------------ ways come

    def offer(self, peer: bytes, record: PeerRecord, now: float) -> bytes:
        """A frame of a peer without a way has come: the path to offer, or b''."""
        if now - record.warm_since > HEAT_S:
            record.warm_since, record.heat = now, 0
        record.heat += 1
        if record.heat < HEAT_FRAMES or peer[_NODE:] == bytes(len(peer) - _NODE):
            return b""
        record.heat = 0
        self._withdraw(now)
        if (now < self._no_offer_until or self._offer_to(peer) is not None
                or any(answered == peer for answered, _ in self._answers.values()) or not self._has_room(now)):
            return b""
        path = os.path.join(self._folder, f"{_PREFIX}{os.urandom(8).hex()}.sock")
        try:
            offer = DuplexOffer(path)
        except OSError:  # no descriptor is left, or the session's folder has gone
            self._no_offer_until = now + WITHDRAW_S
            return b""
        self._offers[offer.fileno()] = (peer, offer, now)
        self._register(offer.fileno())
        return path.encode()

    def offered(self, peer: bytes, path: bytes, now: float) -> None:
        """A peer has offered a way."""
        folder, name = os.path.split(path.decode(errors="replace"))
        if peer in self.ways or folder != self._folder or not name.startswith(_PREFIX):
            return
        mine = self._offer_to(peer)
        if mine is not None:  # both have offered, and each would take the other's: both keep the one of the lower path
            fd, offer = mine
            if offer.path.encode() < path:
                return
            self._close_offer(fd, offer)
        self._withdraw(now)
        if not self._has_room(now):
            return
        try:
            answer = DuplexAnswer(os.path.join(folder, name))
        except Refused:
            return
        self._answers[answer.fileno()] = (peer, answer)
        self._register(answer.fileno())

    def _offer_to(self, peer: bytes) -> tuple[int, DuplexOffer] | None:
        for fd, (offered, offer, _) in self._offers.items():
            if offered == peer:
                return fd, offer
        return None

    def _has_room(self, now: float) -> bool:
        """Whether one more may be made; those at rest go first."""
        if len(self) >= self.ways_max and now - self._looked_at >= REST_S:
            self._looked_at = now
            for way in self.list:
                count = way.reader.words[PUBLISHED] + way.writer.count
                if way.used == count:
                    self.drop(way.peer)
                way.used = count
        return len(self) < self.ways_max

    def _withdraw(self, now: float) -> None:
        for fd, (_, offer, since) in list(self._offers.items()):
            if now - since > WITHDRAW_S:
                self._close_offer(fd, offer)

    def _close_offer(self, fd: int, offer: DuplexOffer) -> None:
        del self._offers[fd]
        self._unregister(fd)
        offer.close()

    def _close_answer(self, fd: int, answer: DuplexAnswer) -> None:
        del self._answers[fd]
        self._unregister(fd)
        answer.close()

    def fired(self, fd: int) -> None:
        """A descriptor is readable."""
        way = self._by_fd.get(fd)
        if way is not None:
            way.ending = way.ending or not way.duplex.woken()
        elif fd in self._offers:
            peer, offer, since = self._offers[fd]
            try:
                self._made(peer, offer.accept())
            except Refused:
                self._no_offer_until = since + WITHDRAW_S
            self._close_offer(fd, offer)
        elif fd in self._answers:
            peer, answer = self._answers.pop(fd)
            self._unregister(fd)
            try:
                self._made(peer, answer.receive())
            except Refused:
                pass

    def _made(self, peer: bytes, duplex: Duplex) -> None:
        if peer in self.ways:
            duplex.close()
            return
        way = self.ways[peer] = self._by_fd[duplex.fileno()] = SharedWay(peer, duplex)
        self._changed()
        self._register(duplex.fileno())
        way.ending = not duplex.woken()

    # ------------------------------------------------------------ ways go

    def drop(self, peer: bytes) -> None:
        """The way to a peer ends, and what was to be one; no effect without one."""
        mine = self._offer_to(peer)
        if mine is not None:
            self._close_offer(*mine)
        for fd, (answered, answer) in list(self._answers.items()):
            if answered == peer:
                self._close_answer(fd, answer)
        way = self.ways.pop(peer, None)
        if way is not None:
            del self._by_fd[way.duplex.fileno()]
            self._changed()
            self._unregister(way.duplex.fileno())
            way.duplex.close()

    def _changed(self) -> None:
        self.list = tuple(self.ways.values())
        self._tell(tuple(way.reader for way in self.list))

    def close(self) -> None:
        for fd, (_, offer, _) in list(self._offers.items()):
            self._close_offer(fd, offer)
        for fd, (_, answer) in list(self._answers.items()):
            self._close_answer(fd, answer)
        for peer in list(self.ways):
            self.drop(peer)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert len(self) <= self.ways_max
        assert {way.duplex.fileno(): way for way in self.ways.values()} == self._by_fd
        assert self.list == tuple(self.ways.values())
