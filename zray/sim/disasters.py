"""Faults of whole nodes in the first phase of a run.

Only faults that a cluster must survive.  A node with a part in the control store is hit only when all other such nodes
are healthy.  Unless the node leaves by itself, a majority of the voters and a replica with all data must be among
these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zray.base.ids import same_node
from zray.gcs.configuration.config import ClusterConfig, majority
from zray.gcs.configuration.membership import LATE_MAX, SUSPECT_S
from zray.gcs.replica.tables import ACTORS, GROUPS, NODES, PUT
from zray.sim.core import Core
from zray.sim.node import MEMORY_BYTES, SimNode
from zray.sim.observed import Observed
from zray.sim.plan import DRAWN_APART, LATE_ONLY, NODE_FAULTS, SIM_NODE_TIMEOUT_S

NODES_MAX = 8
TRY_AGAIN_S = 0.05
LAST_WORDS_S, LAST_WORDS_TRIES = 0.0005, 500  # how often, and how many times, to look for a node that writes
SLICE_S, WAIT_S = (0.001, 0.02), (0.01, 0.6)  # on a crowded machine: a turn's length, and the wait for the next one


class EndNode(Protocol):
    def __call__(self, node: SimNode, why: str, *, power: bool = False) -> None: ...


class Disasters:
    """See the module's docstring; ``happen(what)`` with a word of zray.sim.plan.NODE_FAULTS.

    add_node      start one more node, unless there are many
    end_node      end the daemon of a node, and why; ``power``: its whole machine
    """

    def __init__(self, cluster: Observed, add_node: Callable[[], object], end_node: EndNode) -> None:
        self.cluster, self._add_node, self._end_node = cluster, add_node, end_node
        self.net = cluster.net
        self.stopped: dict[bytes, bool] = {}  # node -> whether all its processes are stopped too
        self.cut: set[tuple[bytes, bytes]] = set()
        self.starved: set[bytes] = set()  # late nodes whose transport answers: they must not be declared dead
        self.crowded: set[bytes] = set()  # of them those of which all processes are late
        self.stalled: dict[bytes, bytes] = {}  # a driver or worker that stands still -> its node
        self._over = False

    def happen(self, what: str, tries: int = 0) -> None:
        assert what in (*NODE_FAULTS, *DRAWN_APART), f"{what!r} is no fault of a node"
        if self._over:
            return
        if what == "join":
            if self.cluster.nodes_made < NODES_MAX and self.cluster.serving():
                self._add_node()
            return
        choice = [node for node in self.cluster.serving() if self._may_hit(node, what)]
        if what in ("crowd", "stall", "squeeze") and self.cluster.plan.nodes == 1:
            choice = [node for node in self.cluster.serving() if self.is_well(node)]
        if not choice:
            if self.cluster.plan.far:  # such a run is about the death of a node
                self.net.call_at(self.net.now + TRY_AGAIN_S, self.happen, what)
            return
        if self.cluster.plan.far:
            choice = [node for node in choice if self.cluster.stores.blocks.get(node.incarnation)] or choice
        if what in ("kill", "off") and self.cluster.plan.last_words:
            speaking = [node for node in choice if self._is_writing(node)]
            if not speaking and tries < LAST_WORDS_TRIES:
                self.net.call_at(self.net.now + LAST_WORDS_S, self.happen, what, tries + 1)
                return
            choice = speaking or choice
        node = self.net.random.choice(choice)
        self.net.trace("disaster", what, node.incarnation)
        self.cluster.oracle.happened["node"] += what not in ("reset", "squeeze", *LATE_ONLY)
        if what in ("kill", "off"):
            self._end_node(node, what, power=what == "off")
        elif what == "leave":
            node.stop()
        elif what in ("pause", "freeze"):
            self._stop(node, what == "freeze")
        elif what == "starve":
            self._starve(node)
        elif what == "crowd":
            self._crowd(node)
        elif what == "stall":
            self._stall(node)
        elif what == "squeeze":
            self._squeeze(node)
        else:
            self._cut(node, what)

    def over(self) -> None:
        """End all faults."""
        self._over = True
        for name in list(self.stopped):
            self._continue(name)
        for name in sorted(self.crowded):
            self._disperse(name)
        for node in self.cluster.serving():
            self._relieve(node)
        for name in list(self.stalled):
            self._go_on(name)
        for pair in sorted(self.cut):
            self._mend([pair])

    def frozen(self, node: SimNode) -> bool:
        return self.stopped.get(node.incarnation, False)

    def _seconds(self) -> float:
        """A duration, shorter or longer than the time-out of a node."""
        random = self.net.random
        return random.uniform(0.02, 0.5) if random.random() < 0.5 else SIM_NODE_TIMEOUT_S * random.uniform(1.0, 2.5)

    # ------------------------------------------------------------ which nodes may be hit

    def _may_hit(self, node: SimNode, what: str) -> bool:
        serving = self.cluster.serving()
        well = {other.incarnation for other in serving if self.is_well(other)}
        if node.incarnation not in well or len(well) < 2:
            return False
        config = self._config(serving)
        if what == "reset" or node.incarnation not in config.involved:
            return True
        under_way = [value for one in serving if (value := one.gcs.control.acceptor.accepted) is not None]
        if not config.involved <= well or any(not value.involved <= well for _, value in under_way):
            return False  # a decision that gives parts may be under way
        if what in ("leave", "part"):
            return True
        rest = well - {node.incarnation}
        return majority(config.voters, rest) and all(
            any(name in rest and (replica := self.cluster.nodes[name].gcs.replicas.get(shard)) is not None
                and replica.established for name in chain.members)
            for shard, chain in enumerate(config.chains))

    def is_well(self, node: SimNode) -> bool:
        return not (node.paused or node.incarnation in self.crowded or node.incarnation in self.stalled.values()
                    or node.is_leaving or node.gcs.fenced_because
                    or node.incarnation in self.cluster.oracle.condemned or self._is_suspect(node)
                    or any(node.incarnation in pair for pair in self.cut))

    @staticmethod
    def _is_writing(node: SimNode) -> bool:
        """Whether the control store has not answered what it has written about an actor or a group."""
        calls = node.gcs.client.open_calls()
        return any(call.op[0] == PUT and call.op[1].startswith((ACTORS, GROUPS)) for call in calls)

    def _is_suspect(self, node: SimNode) -> bool:
        """Whether the deciding node has not heard it for so long that it may still be declared dead, or writes that."""
        row = NODES + node.incarnation
        if any(call.op[1].startswith(row) for other in self.cluster.serving() if other is not node
               for call in other.gcs.client.open_calls()):
            return True
        heard = (other.gcs.control.membership.heard_at.get(node.incarnation) for other in self.cluster.serving())
        return any(at is not None and self.net.now - at > SUSPECT_S for at in heard)

    @staticmethod
    def _config(serving: list[SimNode]) -> ClusterConfig:
        return max((node.gcs.config for node in serving), key=lambda config: config.generation)

    # ------------------------------------------------------------ faults that end

    def _stop(self, node: SimNode, everything: bool) -> None:
        self.stopped[node.incarnation] = everything
        self.cluster.wire.stop(node.incarnation)
        node.pause()
        if everything:
            for core in self.cluster.cores.values():
                if core.host is node:
                    core.pause()
        self.net.call_at(self.net.now + self._seconds(), self._continue, node.incarnation)

    def _starve(self, node: SimNode) -> None:
        """The daemon gets no turn for many seconds; all other processes, and its libzmq, continue."""
        self.stopped[node.incarnation] = False
        self.starved.add(node.incarnation)
        node.pause()
        seconds = SIM_NODE_TIMEOUT_S * self.net.random.uniform(0.5, LATE_MAX / 2)
        self.net.call_at(self.net.now + seconds, self._continue, node.incarnation)

    def _crowd(self, node: SimNode) -> None:
        """Each of its processes gets short slices with long waits between them; forks take long, and often fail."""
        self.starved.add(node.incarnation)
        self.crowded.add(node.incarnation)
        node.fork_delay = self.net.random.uniform(10.0, 100.0)
        self._share_cpu(node)
        seconds = SIM_NODE_TIMEOUT_S * self.net.random.uniform(0.5, LATE_MAX / 2)
        self.net.call_at(self.net.now + seconds, self._disperse, node.incarnation)

    def _share_cpu(self, node: SimNode) -> None:
        """Some of its processes wait for their next slice of the CPU from now on."""
        if node.incarnation not in self.crowded or not node.alive:
            return
        random, now = self.net.random, self.net.now
        for process in [node, *(core for core in self.cluster.cores.values() if core.host is node)]:
            if not process.paused and random.random() < 0.8:
                process.pause()
                self.net.call_at(now + random.uniform(*WAIT_S), self._gets_slice, process)
        self.net.call_at(now + random.uniform(*SLICE_S), self._share_cpu, node)

    @staticmethod
    def _gets_slice(process: SimNode | Core) -> None:
        if process.paused:
            process.resume()

    def _disperse(self, name: bytes) -> None:
        """The processes that wait still get their turns, one by one."""
        self.crowded.discard(name)
        self.starved.discard(name)
        if name in self.cluster.nodes:
            self.cluster.nodes[name].fork_delay = 1.0

    def _stall(self, node: SimNode) -> None:
        cores = [core for core in self.cluster.cores.values() if core.host is node and not core.paused]
        if cores:
            core = self.net.random.choice(cores)
            core.pause()
            self.stalled[core.incarnation] = node.incarnation
            seconds = SIM_NODE_TIMEOUT_S * self.net.random.uniform(0.5, LATE_MAX / 2)
            self.net.call_at(self.net.now + seconds, self._go_on, core.incarnation)

    def _squeeze(self, node: SimNode) -> None:
        self.cluster.oracle.happened["memory"] += 1
        node.memory_used = MEMORY_BYTES
        self.net.call_at(self.net.now + self._seconds(), self._relieve, node)

    @staticmethod
    def _relieve(node: SimNode) -> None:
        node.memory_used = 0

    def _go_on(self, name: bytes) -> None:
        if self.stalled.pop(name, None) is not None and name in self.cluster.cores:
            self.cluster.cores[name].resume()

    def _continue(self, name: bytes) -> None:
        if self.stopped.pop(name, None) is None or name not in self.cluster.nodes:
            return
        self.net.trace("continue", name)
        self.starved.discard(name)
        self.cluster.wire.go_on(name)
        self.cluster.nodes[name].resume()
        for core in list(self.cluster.cores.values()):
            if core.paused and same_node(core.incarnation, name):
                core.resume()

    def _cut(self, node: SimNode, what: str) -> None:
        others = [other.incarnation for other in self.cluster.nodes.values() if other is not node]
        if what not in ("isolate", "outage"):
            others = [self.net.random.choice(others)]
        if what == "reset":
            self.cluster.wire.reset(node.incarnation, others[0])
            return
        pairs = [(node.incarnation, other) for other in others]
        self.starved -= {node.incarnation, *others}  # from now on the cut makes them silent
        for pair in pairs:
            self.cut.add(pair)
            self.cluster.wire.part(*pair)
        seconds = SIM_NODE_TIMEOUT_S * self.net.random.uniform(1.5, 3.0) if what == "outage" else self._seconds()
        self.net.call_at(self.net.now + seconds, self._mend, pairs)

    def _mend(self, pairs: list[tuple[bytes, bytes]]) -> None:
        for pair in pairs:
            if pair in self.cut:
                self.cut.discard(pair)
                self.cluster.wire.mend(*pair)
