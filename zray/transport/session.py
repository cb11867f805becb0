"""One session: the frames between this incarnation and one other, each delivered in order, exactly once.  Pure.

    outgoing    next_sequence() -> frame made by the caller -> retain()      kept until the peer's cumulative ack
                tick()  resends the oldest unacknowledged frame after a time-out that doubles
    incoming    receive() -> frames now in order; duplicates dropped, early ones held (bounded)
                owed counts frames not yet acknowledged to the peer

A sequence number is ``epoch << 40 | counter``; the counter starts at 1.  The epoch names one stream of numbers:

    peer's epoch      meaning                                         action
    same as before    the stream goes on                              deliver / drop duplicate / hold early
    newer             the peer restarted its numbering                start over at its counter 1
    older             a straggler of a stream that has ended          drop

A side that has forgotten the other (it took it for dead) answers a frame from the middle of a
stream with RESET; the sender then restarts: a new epoch, unacknowledged frames once more.  That
side may have dialled again meanwhile and have a new session.  Streams up to ``forgotten`` belong to
the old one, and their missing frames would be waited for in vain.
Delivery is exactly once within an epoch and at least once across a restart.  Resending touches the
oldest frame only, because the usual reason for a missing ack is a busy peer, not a loss: held
frames make one arrival enough to acknowledge all that follow it.
"""

from __future__ import annotations

from collections import deque

EPOCH_SHIFT = 40
_BACKOFF_MAX = 64


class Session:
    """Numbering, acknowledgement, credit and order for one peer.  ``now`` is any clock that does not run backwards."""

    __slots__ = (
        "_bytes_max", "_expected", "_frames_max", "_held", "_held_bytes", "_next", "_recover", "_unacked",
        "_unacked_bytes", "ack_delay_s", "acked", "active", "duplicates", "epoch", "forgotten", "owed", "owed_max",
        "owed_since", "refused", "resend_at", "resend_s", "resent", "wait_s",
    )

    def __init__(self, epoch: int, frames_max: int = 1024, bytes_max: int = 256 << 20,
                 resend_s: float = 1.0, ack_delay_s: float = 0.2, forgotten: int = 0):
        """``forgotten``: the newest epoch of the peer that an earlier session has received."""
        self.epoch = epoch
        self.forgotten = forgotten
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self.resend_s = resend_s
        self.ack_delay_s = ack_delay_s
        # outgoing
        self._next = (epoch << EPOCH_SHIFT) + 1
        self.acked = self._next - 1  # the peer has everything up to here
        self._unacked: deque[tuple[int, bytes]] = deque()
        self._unacked_bytes = 0
        self._recover = 0  # while acked is below this, a loss is being repaired
        self.wait_s = resend_s
        self.resend_at = 0.0
        # incoming
        self._expected = 0  # 0: no frame received yet
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self.owed = 0
        self.owed_max = max(1, frames_max // 2)
        self.owed_since = 0.0
        # for the caller of tick(): whether it must visit the session
        self.active = False
        self.duplicates = self.refused = self.resent = 0

    # ---------------------------------------------------------------- outgoing

    def can_send(self) -> bool:
        """Whether there is credit for one more frame."""
        return len(self._unacked) < self._frames_max and self._unacked_bytes < self._bytes_max

    def next_sequence(self) -> int:
        """The number of the frame that retain() is called with next."""
        return self._next

    def ack(self) -> int:
        """The cumulative ack for an outgoing header; the caller sends it, so no ack is owed any more."""
        self.owed = 0
        return self._expected - 1 if self._expected else 0

    def stamp(self) -> tuple[int, int]:
        """``(next_sequence(), ack())``, for the header of the frame that retain() is called with next."""
        self.owed = 0
        return self._next, self._expected - 1 if self._expected else 0

    def retain(self, frame: bytes, now: float) -> None:
        """The frame numbered next_sequence() was sent: keep it until it is acknowledged."""
        if not self._unacked:
            self.resend_at = now + self.wait_s
        self._unacked.append((self._next, frame))
        self._unacked_bytes += len(frame)
        self._next += 1

    def on_ack(self, ack: int, now: float) -> bytes | None:
        """The peer has all frames up to ``ack``.  Returns a frame to send again at once, when repairing a loss."""
        if not self.acked < ack < self._next:
            return None  # old, or a number never sent
        self.acked = ack
        unacked = self._unacked
        while unacked and unacked[0][0] <= ack:
            self._unacked_bytes -= len(unacked.popleft()[1])
        self.wait_s = self.resend_s
        self.resend_at = now + self.wait_s
        if unacked and ack < self._recover:
            self.resent += 1
            return unacked[0][1]
        return None

    def restart(self, epoch: int) -> list[bytes]:
        """Number from 1 again under a newer epoch; returns the unacknowledged frames, to be numbered and sent anew."""
        if epoch <= self.epoch:
            raise ValueError(f"epoch {epoch} is not newer than {self.epoch}")
        frames = [frame for _, frame in self._unacked]
        self._unacked.clear()
        self._unacked_bytes = 0
        self.epoch = epoch
        self._next = (epoch << EPOCH_SHIFT) + 1
        self.acked = self._next - 1
        self._recover = 0
        self.wait_s = self.resend_s
        return frames

    def unacked(self) -> int:
        """Frames sent and not yet acknowledged."""
        return len(self._unacked)

    # ---------------------------------------------------------------- incoming

    def receive(self, sequence: int, frame: bytes) -> tuple[bytes, ...] | list[bytes]:
        """Frames that are now in order, ``frame`` first if it is one of them."""
        if sequence == self._expected and not self._held:
            self._expected = sequence + 1
            self.owed += 1
            return (frame,)
        return self._receive_out_of_line(sequence, frame)

    def _receive_out_of_line(self, sequence: int, frame: bytes) -> tuple[bytes, ...] | list[bytes]:
        epoch = sequence >> EPOCH_SHIFT
        if epoch > self._expected >> EPOCH_SHIFT:
            self._expected = (epoch << EPOCH_SHIFT) + 1
            self._held.clear()
            self._held_bytes = 0
        if sequence < self._expected or sequence in self._held or epoch == 0:
            self.duplicates += 1
            self.owed = max(self.owed, self.owed_max)  # our ack was lost, or came too late: send it again at once
            return ()
        if sequence > self._expected:
            full = len(self._held) >= self._frames_max or self._held_bytes + len(frame) > 2 * self._bytes_max
            if full or sequence >= self._expected + 2 * self._frames_max:
                self.refused += 1  # not acknowledged, so the peer sends it again
                return ()
            self._held[sequence] = frame
            self._held_bytes += len(frame)
            return ()
        return self._in_order(frame)

    def _in_order(self, frame: bytes) -> list[bytes]:
        ready = [frame]
        self._expected += 1
        while (early := self._held.pop(self._expected, None)) is not None:
            self._held_bytes -= len(early)
            self._expected += 1
            ready.append(early)
        self.owed += len(ready)
        return ready

    def newest_epoch(self) -> int:
        """The newest epoch received from the peer, now or before, 0 for none."""
        return self._expected >> EPOCH_SHIFT or self.forgotten

    def is_forgotten(self, sequence: int) -> bool:
        """Whether that number is of a stream that began for an earlier session: the peer must restart."""
        return not self._expected and sequence >> EPOCH_SHIFT <= self.forgotten

    # ---------------------------------------------------------------- time

    def ack_due(self, now: float) -> bool:
        """Whether an ack should be sent alone, because no frame carried it."""
        return self.owed >= self.owed_max or (self.owed > 0 and now >= self.owed_since + self.ack_delay_s)

    def tick(self, now: float) -> bytes | None:
        """The oldest unacknowledged frame, when its time-out has passed and it should be sent again."""
        if not self._unacked or now < self.resend_at:
            return None
        self._recover = self._next - 1
        self.wait_s = min(self.wait_s * 2, self.resend_s * _BACKOFF_MAX)
        self.resend_at = now + self.wait_s
        self.resent += 1
        return self._unacked[0][1]

    def due(self) -> float | None:
        """The next time at which tick() or ack_due() has a result; None for never."""
        times = []
        if self.owed:
            times.append(self.owed_since + self.ack_delay_s)
        if self._unacked:
            times.append(self.resend_at)
        return min(times, default=None)

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        numbers = [sequence for sequence, _ in self._unacked]
        assert numbers == list(range(self.acked + 1, self._next)), "unacknowledged frames are exactly those above acked"
        assert self._unacked_bytes == sum(len(frame) for _, frame in self._unacked)
        assert len(self._unacked) <= self._frames_max
        assert self._held_bytes == sum(map(len, self._held.values()))
        assert len(self._held) <= self._frames_max
        assert all(sequence > self._expected for sequence in self._held), "held frames are early"
        assert self.owed >= 0
        assert (self._next - 1) >> EPOCH_SHIFT == self.epoch
