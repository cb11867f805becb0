"""PeerTable against a naive model: what a peer's ways, messages and ends say about its state, after any verbs."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zray.transport.peers import Dialled, PeerState, PeerTable
from zray.transport.session import EPOCH_SHIFT, Session

names = st.sampled_from([b"aaaa\0\0\0\0", b"aaaa\0\0\0\1", b"bbbb\0\0\0\0"])


class PeersMachine(RuleBasedStateMachine):
    """Verbs as a mesh calls them; the model has a set of ways a peer and three sets of peers."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = PeerTable(ended_max=2)
        self.ways: dict[bytes, set[str]] = {}
        self.sessions: dict[bytes, Session] = {}
        self.held: set[bytes] = set()
        self.closing: set[bytes] = set()
        self.ended: list[bytes] = []

    def _way(self, name: bytes, way: str) -> None:
        self.ways.setdefault(name, set()).add(way)
        record = self.peers.records[name]
        record.held = None  # the mesh sends what was held
        self.held.discard(name)

    @rule(name=names)
    def dial(self, name):
        if self.peers.is_dialled(name):
            self.hang_up(name)
        self.peers.dialled(name, Dialled("e", "a", b"r"))
        self.ways.setdefault(name, set()).discard("hop")
        self._way(name, "dialled")
        self.closing.discard(name)

    @rule(name=names, hop=names)
    def route(self, name, hop):
        if not self.peers.is_dialled(name):
            self.peers.routed(name, hop)
            self._way(name, "hop")
            self.closing.discard(name)

    @rule(name=names)
    def come(self, name):
        self.peers.came(name, b"route")
        self._way(name, "ipc")

    @rule(name=names)
    def come_by_tcp(self, name):
        self.peers.came_by_tcp(name, b"route")
        self._way(name, "tcp")

    @rule(name=names, hop=names)
    def relay(self, name, hop):
        self.peers.relayed(name, hop)
        if self.ways.get(name, set()) <= {"hop"}:
            self._way(name, "hop")

    @rule(name=names)
    def hold(self, name):
        if not self.peers.is_connected(name):
            if name in self.closing:
                self.keep(name)
            self.peers.hold(name, [])
            self.held.add(name)

    @rule(name=names, epoch=st.integers(1, 3))
    def begin(self, name, epoch):
        if name not in self.sessions:
            session = self.sessions[name] = Session(1)
            session.receive((epoch << EPOCH_SHIFT) + 1, b"frame")
            self.peers.begin(name, session)
            self.ended = [other for other in self.ended if other != name]

    @rule(name=names)
    def hang_up(self, name):
        if self.peers.is_dialled(name):
            self.peers.hung_up(name)
            self.ways[name].discard("dialled")

    @rule(name=names)
    def drop(self, name):
        self.peers.drop_tcp(name)
        self.peers.drop_ipc(name)
        self.ways.get(name, set()).difference_update({"ipc", "tcp"})

    @rule(name=names)
    def lose(self, name):
        self.peers.lose(name, 1.0)
        self.closing.add(name)

    @rule(name=names)
    def keep(self, name):
        if name in self.closing:
            self.hang_up(name)
            self.peers.drop_tcp(name)
            self.peers.keep(name)
            self.ways.pop(name, None)
            self.closing.discard(name)

    @rule(name=names)
    def forget(self, name):
        self.hang_up(name)
        self.peers.drop_tcp(name)
        self.peers.forget(name)
        if self.sessions.pop(name, None) is not None:
            self.ended = [*self.ended, name][-2:]
        self.ways.pop(name, None)
        self.held.discard(name)
        self.closing.discard(name)

    @invariant()
    def states_are_what_the_model_says(self):
        self.peers.check()
        for name in (b"aaaa\0\0\0\0", b"aaaa\0\0\0\1", b"bbbb\0\0\0\0"):
            assert self.peers.state(name) in self._expected(name)
            ways = bool(self.ways.get(name)) or name in self.held
            assert self.peers.is_connected(name) == (ways and name not in self.closing)
        assert list(self.peers.ended) == self.ended
        assert self.peers.closing.keys() == self.closing

    def _expected(self, name: bytes) -> set[PeerState]:
        if name in self.closing:
            return {PeerState.CLOSING}
        if name in self.held:
            return {PeerState.HELD}
        if self.ways.get(name):
            # A way that the peer made opens no peer that had ended when the frame came.
            own = self.ways[name] <= {"ipc", "tcp"} and name not in self.sessions
            return {PeerState.OPEN, PeerState.ENDED} if own else {PeerState.OPEN}
        if name in self.sessions:
            return {PeerState.APART}
        return {PeerState.ENDED} if name in self.ended else {PeerState.NEW}


TestPeers = PeersMachine.TestCase
TestPeers.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
