"""A mesh's knowledge of its peers: one record a peer, and the state table of a peer's life.  Pure.

    state      what is known                                    messages to the peer
    NEW        nothing; there is no record                      the first one begins a session
    HELD       its endpoint is looked up                        they wait, bounded, until there is a way
    OPEN       there is a way to it                             they are sent
    CLOSING    its connection is lost; what has arrived is      they are sent if a way is left, else the session
               handled first, then the mesh reports it closed   keeps them
    APART      a session and no way                             the session keeps them
    ENDED      forgotten: the newest epoch received from it     dropped, with a count

    event      source and meaning
    DIALLED    connect(): we have a connection to it
    ROUTED     via(): it is reached through the connection to another process
    CAME       a frame came by a connection that the peer has made
    RELAYED    a frame came through a trusted relay
    BEGUN      a session begins, for a message to it or for a frame from it
    HOLD       hold(): its endpoint is looked up
    LOST       its connection has ended, or a frame found no way
    PARTED     the last way is gone and no report is needed (disconnect)
    KEPT       reported closed, and its session outlasts its connections
    forget()   is no event: the record goes, from any state; the epoch stays if there was a session

A way is a connection that we dialled, one that the peer dialled (ipc or TCP), or a next hop.  A frame alone revives no
peer that has ended: a session does, and it begins when the frame is of a newer epoch.  A frame does not end CLOSING,
because the owners of leases and references wait for the report.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from zray.transport.session import Session

Flat = list[Any]  # code, message, code, message, ...: the content of one frame, without a tuple for each pair

_TAG = 4  # bytes of an incarnation that name its node


class PeerState(Enum):
    NEW = "new"
    HELD = "held"
    OPEN = "open"
    CLOSING = "closing"
    APART = "apart"
    ENDED = "ended"


class PeerEvent(Enum):
    DIALLED = "dialled"
    ROUTED = "routed"
    CAME = "came"
    RELAYED = "relayed"
    BEGUN = "begun"
    HOLD = "hold"
    LOST = "lost"
    PARTED = "parted"
    KEPT = "kept"


_STATES = (PeerState.NEW, PeerState.HELD, PeerState.OPEN, PeerState.CLOSING, PeerState.APART, PeerState.ENDED)
_N, _H, _O, _C, _A, _E = _STATES
# The columns are the states before, in the order of _STATES; None: this cannot happen.
_ROWS: dict[PeerEvent, tuple[PeerState | None, ...]] = {
    #                   NEW   HELD  OPEN  CLOSING APART ENDED
    PeerEvent.DIALLED: (_O,   _O,   _O,   _O,     _O,   _O),
    PeerEvent.ROUTED:  (_O,   _O,   _O,   _O,     _O,   _O),
    PeerEvent.CAME:    (_O,   _O,   _O,   _C,     _O,   _E),
    PeerEvent.RELAYED: (_O,   _O,   _O,   _C,     _O,   _O),
    PeerEvent.BEGUN:   (_A,   _H,   _O,   _C,     _A,   _A),
    PeerEvent.HOLD:    (_H,   _H,   None, None,   _H,   _H),
    PeerEvent.LOST:    (_C,   _C,   _C,   None,   _C,   _C),
    PeerEvent.PARTED:  (None, None, _A,   None,   None, None),
    PeerEvent.KEPT:    (None, None, None, _A,     None, None),
}
TRANSITIONS: dict[PeerEvent, dict[PeerState, PeerState]] = {
    event: {before: after for before, after in zip(_STATES, row, strict=True) if after is not None}
    for event, row in _ROWS.items()}


def messages_in(flat: Flat) -> int:
    """The number of messages in a flat list."""
    return len(flat) // 2


class Dialled:
    """A connection that we made."""

    __slots__ = ("address", "endpoint", "route")

    def __init__(self, endpoint: str, address: str, route: bytes):
        self.endpoint = endpoint
        self.address = address  # the endpoint without its key
        self.route = route


class PeerRecord:
    """One peer: its state, the ways to it, its session, and the messages that cannot go out yet."""

    __slots__ = ("close_at", "dialled", "heat", "held", "hop", "inbound", "session", "stalled", "state", "tcp",
                 "warm_since")

    def __init__(self, state: PeerState):
        self.state = state
        # ways, best first
        self.dialled: Dialled | None = None
        self.inbound = b""  # route of the peer's own connection by ipc
        self.tcp = b""  # route of the peer's own connection by TCP
        self.hop = b""  # the peer whose connection leads to this one
        self.session: Session | None = None
        self.held: Flat | None = None  # messages that wait for a way
        self.stalled: Flat | None = None  # messages without credit; older than those in the outbox for the peer
        self.heat = 0  # frames since warm_since: a peer that talks often gets a way through shared memory
        self.warm_since = 0.0
        self.close_at = 0.0  # CLOSING: the latest time of the report

    def is_reachable(self) -> bool:
        return self.dialled is not None or bool(self.inbound or self.tcp or self.hop)


class PeerTable:
    """All records of one mesh, and the verbs that change their states.  The mesh does the I/O."""

    def __init__(self, ended_max: int):
        self.records: dict[bytes, PeerRecord] = {}
        self.closing: dict[bytes, PeerRecord] = {}  # those in CLOSING, the oldest first
        self.ended: dict[bytes, int] = {}  # peer -> newest epoch received from it
        self.lasting: set[bytes] = set()  # peers whose sessions outlast their connections; may precede their records
        self.refused: set[bytes] = set()  # tags of nodes
        self.hops = 0  # peers that are reached through another
        self._ended_max = ended_max

    # ---------------------------------------------------------------- questions

    def state(self, peer: bytes) -> PeerState:
        record = self.records.get(peer)
        if record is not None:
            return record.state
        return PeerState.ENDED if peer in self.ended else PeerState.NEW

    def session(self, peer: bytes) -> Session | None:
        record = self.records.get(peer)
        return record.session if record is not None else None

    def is_connected(self, peer: bytes) -> bool:
        """Whether there is a way to send to the peer, as far as known, or its endpoint is looked up."""
        record = self.records.get(peer)
        return (record is not None and record.state is not PeerState.CLOSING
                and (record.held is not None or record.is_reachable()))

    def is_dialled(self, peer: bytes) -> bool:
        record = self.records.get(peer)
        return record is not None and record.dialled is not None

    def is_refused(self, peer: bytes) -> bool:
        return bool(self.refused) and peer[:_TAG] in self.refused

    def has_ended(self, peer: bytes, record: PeerRecord | None) -> bool:
        """Whether messages to it are dropped: it has ended, and no caller has asked for a way to it since."""
        return peer in self.ended and (record is None or (record.dialled is None and not record.hop))

    def hop(self, peer: bytes) -> bytes:
        """The next hop to a peer, b'' for none."""
        record = self.records.get(peer)
        return record.hop if record is not None else b""

    def behind(self, hop: bytes) -> list[bytes]:
        """Peers that are reached through it."""
        return [peer for peer, record in self.records.items() if record.hop == hop] if self.hops else []

    def with_session(self) -> list[bytes]:
        return [peer for peer, record in self.records.items() if record.session is not None]

    # ---------------------------------------------------------------- ways come

    def dialled(self, peer: bytes, connection: Dialled) -> PeerRecord:
        """There is a connection that we made.  It replaces a next hop."""
        record = self._record(peer)
        record.dialled = connection
        self._set_hop(record, b"")
        self._move(peer, record, PeerEvent.DIALLED)
        return record

    def routed(self, peer: bytes, hop: bytes) -> PeerRecord:
        """We chose to reach it through ``hop``."""
        record = self._record(peer)
        self._set_hop(record, hop)
        self._move(peer, record, PeerEvent.ROUTED)
        return record

    def came(self, peer: bytes, route: bytes) -> PeerRecord:
        """A frame came by the peer's own connection by ipc."""
        record = self._record(peer)
        record.inbound = route
        self._move(peer, record, PeerEvent.CAME)
        return record

    def came_by_tcp(self, peer: bytes, route: bytes) -> PeerRecord:
        """A frame came by the peer's own connection by TCP, which the gate has let in."""
        record = self._record(peer)
        record.tcp = route
        self._move(peer, record, PeerEvent.CAME)
        return record

    def relayed(self, peer: bytes, hop: bytes) -> PeerRecord:
        """A frame of the peer came through ``hop``: answers go that way where there is no other."""
        record = self._record(peer)
        if record.dialled is None and not record.inbound and not record.tcp:
            self._set_hop(record, hop)
            self._move(peer, record, PeerEvent.RELAYED)
        return record

    def hold(self, peer: bytes, messages: Flat) -> None:
        """Its endpoint is looked up: these messages wait, behind those that wait already."""
        record = self._record(peer)
        record.held = [*(record.held or ()), *messages]
        self._move(peer, record, PeerEvent.HOLD)

    def begin(self, peer: bytes, session: Session) -> PeerRecord:
        """A session begins."""
        record = self._record(peer)
        record.session = session
        self.ended.pop(peer, None)
        self._move(peer, record, PeerEvent.BEGUN)
        if record.state is PeerState.APART and record.is_reachable():
            self._move(peer, record, PeerEvent.CAME)
        return record

    # ---------------------------------------------------------------- ways go

    def hung_up(self, peer: bytes) -> None:
        """Our own connection is gone."""
        record = self.records[peer]
        record.dialled = None
        self._part(peer, record)

    def drop_ipc(self, peer: bytes) -> None:
        """The peer's own connection by ipc is gone."""
        record = self.records.get(peer)
        if record is not None and record.inbound:
            record.inbound = b""
            self._part(peer, record)

    def drop_tcp(self, peer: bytes) -> bytes:
        """The peer's own connection by TCP is gone; returns its route, b'' for none."""
        record = self.records.get(peer)
        if record is None or not record.tcp:
            return b""
        route, record.tcp = record.tcp, b""
        self._part(peer, record)
        return route

    def lose(self, peer: bytes, close_at: float) -> None:
        """Its connection has ended: the mesh reports it closed, at ``close_at`` at the latest."""
        if peer not in self.closing:
            record = self._record(peer)
            record.close_at = close_at
            self._move(peer, record, PeerEvent.LOST)
            self.closing[peer] = record

    def keep(self, peer: bytes) -> None:
        """Reported closed, or about to be looked up: all ways go, the session waits for the next one."""
        record = self.records[peer]
        assert record.dialled is None, "hang up first"
        assert not record.tcp, "drop it first"
        record.inbound = b""
        self._set_hop(record, b"")
        self._move(peer, record, PeerEvent.KEPT)
        if record.held is not None:
            self._move(peer, record, PeerEvent.HOLD)
        self._settle(peer, record)

    def forget(self, peer: bytes) -> PeerRecord | None:
        """It has ended: the record goes and is returned; a session leaves its newest epoch."""
        record = self.records.pop(peer, None)
        if record is None:
            return None
        assert record.dialled is None and not record.tcp, "hang up first"
        self.closing.pop(peer, None)
        self._set_hop(record, b"")
        if record.session is not None:
            self.ended[peer] = record.session.newest_epoch()
            if len(self.ended) > self._ended_max:
                del self.ended[next(iter(self.ended))]
        return record

    # ---------------------------------------------------------------- inside

    def _record(self, peer: bytes) -> PeerRecord:
        record = self.records.get(peer)
        if record is None:
            record = self.records[peer] = PeerRecord(self.state(peer))
        return record

    def _move(self, peer: bytes, record: PeerRecord, event: PeerEvent) -> None:
        before = record.state
        record.state = TRANSITIONS[event][before]
        if before is PeerState.CLOSING and record.state is not PeerState.CLOSING:
            del self.closing[peer]

    def _set_hop(self, record: PeerRecord, hop: bytes) -> None:
        self.hops += bool(hop) - bool(record.hop)
        record.hop = hop

    def _part(self, peer: bytes, record: PeerRecord) -> None:
        if record.state is PeerState.OPEN and not record.is_reachable():
            self._move(peer, record, PeerEvent.PARTED)
        self._settle(peer, record)

    def _settle(self, peer: bytes, record: PeerRecord) -> None:
        """Remove a record without content."""
        if record.state in (PeerState.APART, PeerState.ENDED) and record.session is None and not record.is_reachable():
            del self.records[peer]

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for peer, record in self.records.items():
            self._check(peer, record)
        assert {peer for peer, r in self.records.items() if r.state is PeerState.CLOSING} == self.closing.keys()
        assert all(self.records[peer] is record for peer, record in self.closing.items())
        assert self.hops == sum(bool(record.hop) for record in self.records.values())
        assert len(self.ended) <= self._ended_max

    def _check(self, peer: bytes, record: PeerRecord) -> None:
        state, session = record.state, record.session
        assert state is not PeerState.NEW, "a record that says nothing"
        assert record.dialled is None or not record.hop, "reached through another though dialled"
        assert state is not PeerState.OPEN or record.is_reachable(), "open without a way"
        assert state is not PeerState.APART or (session is not None and not record.is_reachable())
        assert state is not PeerState.ENDED or (session is None and record.is_reachable())
        assert state is not PeerState.HELD or not record.is_reachable(), "held though reachable"
        held = record.held is not None
        assert held == (state is PeerState.HELD) or state is PeerState.CLOSING, "held without a look-up"
        assert session is None or peer not in self.ended
        assert record.stalled is None or session is not None, "no credit of no session"
        if session is not None:
            session.check()
