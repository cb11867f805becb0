"""Which nodes are silent, late or certainly gone, from the messages that one node has received.  Pure.

    silent   a node with a part in the control store, unheard of for SUSPECT_S: out of its chains, may come back
    late     any node, unheard of for ``node_timeout_s`` whose process answers: it is busy, and stays a member
    lost     any node, unheard of for ``node_timeout_s`` whose process does not answer: its row becomes "dead"
    gone     its process is proven dead: silent and lost at once

Three signals with different meanings:

    its endpoint refuses connections         proven_gone: no such process
    ZMTP heartbeats on our connection to it  answers, answers_no_more: libzmq's own thread is there, or is not (a
                                             stopped process, a cut link); it needs no turn of the daemon
    its daemon's messages                    heard: the daemon takes turns

On a busy machine turns are late, and the second signal goes on: the node's leases and reads stop, its work is not lost.
A daemon that takes no turn for LATE_MAX time-outs is lost although its process answers: it counts as deadlocked.

Every node sends heartbeats to all voters: those with a part in the control store every FAST_S, the others four times
in ``node_timeout_s``.  Any other message of a node counts too.  A suspicion alone does nothing: voters send theirs to
each other, and only a majority of them acts on one, so a minority that is cut off declares no node dead.

Durations are measured on the local monotonic clock, so the time of day does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from zray.base.config import DEFAULTS
from zray.gcs.configuration.config import ClusterConfig, majority

FAST_S = 0.1
# A failure detector for processes on one network that answer within a millisecond: two heartbeats may be late.
SUSPECT_S = 0.3
NODE_TIMEOUT_S = DEFAULTS.node_timeout_s
# A daemon that takes no turn for this many node time-outs (60 s), though its process answers, counts as deadlocked.
# The longest turn seen was 3.2 s, with 1,300 workers and a load of 200 on two cores.
LATE_MAX = 20
# The connection between two daemons: a heartbeat each 1/12 of the node time-out, and after 7/12 without an answer the
# connection is closed.  So a silent process is known within 8/12 (2 s), ...
BEAT_PART = 1 / 12
UNANSWERED_PART = 7 / 12
# ... and has this part of the time-out (1 s) to be dialled again and answer: a connection may break for other reasons.
REDIAL_PART = 4 / 12
# Not running for this long is a pause of this node (SIGSTOP, a frozen machine): it was not listening.
PAUSE_S = 0.2


class Membership:
    """The messages that node ``me`` has received, and the suspicions of the other voters."""

    def __init__(self, me: bytes, node_timeout_s: float = NODE_TIMEOUT_S) -> None:
        self.me = me
        self.node_timeout_s = node_timeout_s
        self.gone: set[bytes] = set()
        self.heard_at: dict[bytes, float] = {}  # or when this node began to listen
        self.answering: set[bytes] = set()  # heard at least once: a row alone is no sign of life
        self.connected: set[bytes] = set()  # their processes answer ZMTP's heartbeats
        self.cut_at: dict[bytes, float] = {}  # the others: since when they do not
        self._opinions: dict[bytes, tuple[frozenset[bytes], frozenset[bytes]]] = {}  # voter -> (silent, lost)
        self._ran_at = -math.inf

    # ------------------------------------------------------------ events

    def watch_over(self, nodes: Iterable[bytes], now: float, *, afresh: bool = False) -> None:
        """The nodes to listen to, besides ``me``; ``afresh``: their heartbeats come here only from now on."""
        wanted = {name for name in nodes if name != self.me}
        for name in [name for name in self.heard_at if name not in wanted]:
            del self.heard_at[name]
            self.answering.discard(name)
        for name in wanted:
            if afresh or name not in self.heard_at:
                self.heard_at[name] = now
        self._opinions = {voter: said for voter, said in self._opinions.items() if voter in wanted}

    def expect(self, nodes: Iterable[bytes], now: float) -> None:
        """Nodes that were given a part: their heartbeats come faster from now on.  No other part before the first."""
        for name in nodes:
            if name in self.heard_at:
                self.heard_at[name] = now
                self.answering.discard(name)

    def dismiss(self, nodes: Iterable[bytes], now: float) -> None:
        """Nodes that have no part any more; a silent one gets none again before its next message."""
        for name in nodes:
            if self._unheard(name, SUSPECT_S, now):
                self.answering.discard(name)

    def heard(self, peer: bytes, now: float) -> None:
        if peer in self.heard_at:
            self.heard_at[peer] = now
            self.answering.add(peer)

    def answers(self, node: bytes) -> None:
        """A connection to its process is there, and stays while ZMTP's heartbeats are answered."""
        self.connected.add(node)
        self.cut_at.pop(node, None)

    def answers_no_more(self, node: bytes, now: float) -> None:
        """The connection to its process has closed, or is not wanted any more."""
        if node in self.connected:
            self.connected.discard(node)
            self.cut_at[node] = now

    def forget(self, node: bytes) -> None:
        """The node's row says that it has ended."""
        self.connected.discard(node)
        self.cut_at.pop(node, None)

    def opinion(self, voter: bytes, silent: Iterable[bytes], lost: Iterable[bytes]) -> bool:
        """A voter's list of unheard nodes; whether it has changed."""
        said = (frozenset(name for name in silent if type(name) is bytes),
                frozenset(name for name in lost if type(name) is bytes))
        if voter not in self.heard_at or self._opinions.get(voter, (frozenset(), frozenset())) == said:
            return False
        self._opinions[voter] = said
        return True

    def proven_gone(self, node: bytes) -> bool:
        """The node's process has ended; whether that is new."""
        if node in self.gone or node == self.me:
            return False
        self.gone.add(node)
        return True

    def ran(self, now: float) -> None:
        """Call on every tick: after a pause of this node, every node gets the time back in which it did not listen."""
        pause = now - self._ran_at
        if PAUSE_S < pause < math.inf:
            for name in self.heard_at:
                self.heard_at[name] = min(now, self.heard_at[name] + pause)
            for name in self.cut_at:
                self.cut_at[name] = min(now, self.cut_at[name] + pause)
        self._ran_at = now

    # ------------------------------------------------------------ opinions

    def silent(self, config: ClusterConfig, now: float) -> list[bytes]:
        """Nodes with a part in the control store that were not heard for a short while."""
        return [name for name in sorted(config.involved) if self._unheard(name, SUSPECT_S, now)]

    def late(self, now: float) -> set[bytes]:
        """Nodes that were not heard for a long while, whether their processes answer or not."""
        return {name for name in self.heard_at if self._unheard(name, self.node_timeout_s, now)}

    def lost(self, now: float) -> list[bytes]:
        """Nodes that were not heard for a long while, and whose processes do not answer."""
        return sorted(name for name in self.heard_at if name in self.gone or now >= self._lost_at(name))

    def why_lost(self, node: bytes) -> str:
        """In a user's words."""
        if node in self.gone:
            return "its process has ended: its endpoint refuses connections"
        if node in self.connected:
            return (f"unheard of for {LATE_MAX * self.node_timeout_s:g} s although its process answers: its daemon is "
                    "stuck")
        return f"unheard of for {self.node_timeout_s:g} s, and its process does not answer"

    def agreed_silent(self, config: ClusterConfig, now: float) -> set[bytes]:
        """Nodes that a majority of the voters, this one among them, has not heard for a short while."""
        return {name for name in self.silent(config, now) if self._agreed(config, name, 0, now)}

    def agreed_lost(self, config: ClusterConfig, now: float) -> set[bytes]:
        return {name for name in self.lost(now) if self._agreed(config, name, 1, now)}

    def next_deadline(self, config: ClusterConfig, now: float) -> float:
        """When the next suspicion arises if no message comes."""
        due = [self.heard_at[name] + SUSPECT_S for name in config.involved if name in self.heard_at]
        due += [self.heard_at[name] + self.node_timeout_s for name in config.involved if name in self.heard_at]
        due += [self._lost_at(name) for name in self.heard_at]
        return min((at for at in due if at > now), default=math.inf)

    def _unheard(self, name: bytes, timeout_s: float, now: float) -> bool:
        at = self.heard_at.get(name)
        return name in self.gone or (at is not None and now >= at + timeout_s)

    def _lost_at(self, name: bytes) -> float:
        """When a node is lost if no message of it comes before."""
        heard_at = self.heard_at[name]
        if name in self.connected:
            return heard_at + LATE_MAX * self.node_timeout_s
        cut_at = self.cut_at.get(name, -math.inf)
        return max(heard_at + self.node_timeout_s, cut_at + REDIAL_PART * self.node_timeout_s)

    def _agreed(self, config: ClusterConfig, name: bytes, which: int, now: float) -> bool:
        if name in self.gone:
            return True
        # A silent voter no longer counts: it may have heard the node since.
        agreeing = {voter for voter, said in self._opinions.items()
                    if name in said[which] and not self._unheard(voter, SUSPECT_S, now)}
        return majority(config.voters, agreeing | {self.me})

    def check(self) -> None:
        assert self.me not in self.heard_at and self.me not in self.gone
        assert set(self._opinions) <= set(self.heard_at) >= self.answering
        assert not self.connected & self.cut_at.keys()
