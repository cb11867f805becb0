"""Two sessions over a network that loses, duplicates and reorders; the oracle is the list of what was sent."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zray.transport.session import Session

RESEND_S = 1.0


class Side:
    def __init__(self, epoch: int):
        self.session = Session(epoch, frames_max=6, bytes_max=64, resend_s=RESEND_S, ack_delay_s=0.2)
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.numbers: dict[bytes, int] = {}


class TwoSides(RuleBasedStateMachine):
    """Packets are (to, sequence or 0, frame, ack); the network is a list from which any packet may be taken."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = (Side(3), Side(4))
        self.network: list[tuple[int, int, bytes, int]] = []
        self.now = 0.0

    def put(self, origin: int, sequence: int, frame: bytes) -> None:
        self.network.append((1 - origin, sequence, frame, self.sides[origin].session.ack()))

    @rule(origin=st.integers(0, 1), size=st.integers(0, 20))
    def send(self, origin: int, size: int) -> None:
        side = self.sides[origin]
        if not side.session.can_send():
            return
        frame = len(side.sent).to_bytes(4, "big") + b"." * size
        sequence = side.session.next_sequence()
        side.session.retain(frame, self.now)
        side.sent.append(frame)
        side.numbers[frame] = sequence
        self.put(origin, sequence, frame)

    def arrive(self, packet: tuple[int, int, bytes, int]) -> None:
        to, sequence, frame, ack = packet
        side = self.sides[to]
        again = side.session.on_ack(ack, self.now)
        if again is not None:
            self.put(to, side.numbers[again], again)
        if sequence:
            if not side.session.owed:
                side.session.owed_since = self.now
            side.received += side.session.receive(sequence, frame)

    @rule(data=st.data(), keep=st.booleans())
    def deliver_any(self, data: st.DataObject, keep: bool) -> None:
        if self.network:
            i = data.draw(st.integers(0, len(self.network) - 1))
            self.arrive(self.network[i] if keep else self.network.pop(i))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if self.network:
            self.network.pop(data.draw(st.integers(0, len(self.network) - 1)))

    @rule(dt=st.floats(0.0, 3.0))
    def time_passes(self, dt: float) -> None:
        self.now += dt
        for origin, side in enumerate(self.sides):
            if side.session.ack_due(self.now):
                self.put(origin, 0, b"")
            again = side.session.tick(self.now)
            if again is not None:
                self.put(origin, side.numbers[again], again)

    @invariant()
    def what_arrived_is_a_prefix_of_what_was_sent(self) -> None:
        for origin, side in enumerate(self.sides):
            received = self.sides[1 - origin].received
            assert received == side.sent[:len(received)]
            side.session.check()

    def teardown(self) -> None:
        """Heal the network and demand progress: everything arrives, everything is acknowledged."""
        for _ in range(400):
            while self.network:
                self.arrive(self.network.pop(0))
            self.time_passes(70.0)
            if all(not side.session.unacked() and not side.session.owed for side in self.sides):
                break
        for origin, side in enumerate(self.sides):
            assert self.sides[1 - origin].received == side.sent
            assert side.session.unacked() == 0
        super().teardown()


TwoSides.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestTwoSides = TwoSides.TestCase
