"""Scheduling of a simulated cluster: the production machines of 1 to 1000 nodes, with measured costs as parameters.

Each node is a BottomUpScheduler (LocalScheduler, Spillback, Gossip, GlobalScheduler).  The clock and the links are
simulated, workers are durations.  Owners behave as zray.owner.submitter does towards its node: a key's want is the
length of its queue, a lease runs one task at a time, and it is returned when recalled or idle for ``lease_idle_s``.

    cluster = SchedulingCluster([{"CPU": 4}] * 21, seed=1)
    owner = cluster.owner(0)
    owner.submit([0.01] * 100_000, {"CPU": 1})
    cluster.run_until(60.0, cluster.done)
    cluster.runs            # (node, start, end) of every task

One seed, one schedule: ``cluster.net.trace_hash()`` tells two runs apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

from zray.base.causes import Cause
from zray.sched.cluster.bottom_up import BottomUpScheduler, SchedulerMessage
from zray.sched.cluster.spillback_effects import PlaceRequest, RelayToNode, UnplaceRequest
from zray.sched.kernels.loading import Kernels
from zray.sched.node.local import Grant, LocalScheduler, Recall, Status
from zray.sched.resources import units
from zray.sim.network import SimNetwork
from zray.wire import messages as m

WANT_MAX = 4096  # as zray.owner.submitter.LEASE_WANT_MAX


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs in seconds; the defaults are of two-core machines over loopback (docs/benchmarks.md)."""

    link_s_min: float = 0.0001  # a message from one node to another, one way
    link_s_max: float = 0.0003
    inside_s: float = 0.00005  # a message inside a node
    worker_start_s: float = 0.003  # a fork, one after the other
    submit_s: float = 0.000015  # the owner's time for a task: its own push and reply
    detect_s: float = 0.3  # from a node's death until the others know
    lease_idle_s: float = 0.2
    bytes_per_s: float = 1.25e9  # into a node; its tasks' transfers run one after the other


class SimTask:
    """One task: its duration, and the bytes it depends on with the node where they lie."""

    __slots__ = ("at", "nbytes", "number", "seconds", "submitted")

    def __init__(self, number: int, seconds: float, nbytes: int, at: int, submitted: float) -> None:
        self.number, self.seconds, self.nbytes, self.at, self.submitted = number, seconds, nbytes, at, submitted


class SimKey:
    """A scheduling key of a simulated owner."""

    def __init__(self, number: int, demand: dict[str, int], strategy: dict) -> None:
        self.number, self.demand, self.strategy = number, demand, strategy
        self.queue: deque[SimTask] = deque()
        self.want = self.granted = 0
        self.leases: dict[int, SchedulingNode] = {}
        self.idle: dict[int, float] = {}  # lease -> since when
        self.running: dict[int, SimTask] = {}
        self.recalled: set[int] = set()
        self.waits_since: float | None = None


class Owner:
    """A driver or worker with tasks, on one node."""

    def __init__(self, cluster: SchedulingCluster, node: SchedulingNode, name: bytes, job: int) -> None:
        self.cluster, self.node, self.name, self.job = cluster, node, name, job
        self.keys: dict[int, SimKey] = {}
        self.alive = True
        self.busy_until = 0.0  # its thread

    def submit(self, seconds: Iterable[float], demand: dict[str, float], strategy: dict | None = None,
               bytes_at: Iterable[tuple[int, int]] | None = None) -> SimKey:
        """Tasks of one key; ``bytes_at``: (bytes, index of the node that has them) for each."""
        named = {name: units(value, name) for name, value in demand.items()}
        key = next((key for key in self.keys.values() if (key.demand, key.strategy) == (named, strategy or {})), None)
        if key is None:
            key = self.keys[len(self.keys) + 1] = SimKey(len(self.keys) + 1, named, strategy or {})
            self.node.scheduler.declare(self.name, self.job, key.number, named, key.strategy, f"key {key.number}")
        where = iter(bytes_at) if bytes_at is not None else None
        for duration in seconds:
            nbytes, at = next(where) if where is not None else (0, -1)
            self.cluster.tasks += 1
            key.queue.append(SimTask(self.cluster.tasks, duration, nbytes, at, self.cluster.net.now))
        self._pump(key)
        return key

    def _pump(self, key: SimKey) -> None:
        for lease in list(key.idle):
            if not key.queue:
                break
            del key.idle[lease]
            self._push(key, lease)
        wanted = min(len(key.queue), WANT_MAX)
        if wanted == key.want or (wanted and key.want and key.want // 2 <= wanted <= key.want * 2):
            return
        key.want = wanted
        self.cluster.to_home(self, self.node.scheduler.want, self.name, key.number, wanted, key.granted)

    def grant(self, key: SimKey, lease: int, node: SchedulingNode) -> None:
        key.granted += 1
        key.want = max(key.want - 1, 0)
        key.leases[lease] = node
        if key.queue:
            self._push(key, lease)
            self._pump(key)
        else:
            self.give_back(key, lease)

    def _push(self, key: SimKey, lease: int) -> None:
        cluster, node, task = self.cluster, key.leases[lease], key.queue.popleft()
        key.running[lease] = task
        self.busy_until = max(self.busy_until, cluster.net.now) + cluster.costs.submit_s
        arrives = self.busy_until + cluster.delay(self.node, node)
        if task.nbytes and task.at != node.index:
            node.link_until = max(node.link_until, arrives) + task.nbytes / cluster.costs.bytes_per_s
            arrives = node.link_until
        ends = arrives + task.seconds
        cluster.net.call_at(ends, self._ended, key, lease, task, arrives)

    def _ended(self, key: SimKey, lease: int, task: SimTask, started: float) -> None:
        if self.alive and key.running.get(lease) is task and key.leases[lease].alive:
            node = key.leases[lease]
            self.cluster.net.call_at(self.cluster.net.now + self.cluster.delay(node, self.node),
                                     self._done, key, lease, task, started, self.cluster.net.now)

    def _done(self, key: SimKey, lease: int, task: SimTask, started: float, ended: float) -> None:
        if not self.alive or key.running.get(lease) is not task:
            return  # its node died with the reply on the way
        del key.running[lease]
        node = key.leases[lease]
        self.cluster.finished(task, node, started, ended)
        if lease in key.recalled:
            self.give_back(key, lease)
        elif key.queue:
            self._push(key, lease)
            self._pump(key)
        else:
            now = self.cluster.net.now
            key.idle[lease] = now
            self.cluster.net.call_at(now + self.cluster.costs.lease_idle_s, self._idle_over, key, lease, now)

    def _idle_over(self, key: SimKey, lease: int, since: float) -> None:
        if key.idle.get(lease) == since:
            self.give_back(key, lease)

    def recall(self, lease: int) -> None:
        for key in self.keys.values():
            if lease in key.leases:
                key.recalled.add(lease)
                if lease not in key.running:
                    self.give_back(key, lease)

    def give_back(self, key: SimKey, lease: int) -> None:
        node = key.leases.pop(lease)
        key.idle.pop(lease, None)
        key.recalled.discard(lease)
        self.cluster.give_back(self, lease, node)
        if key.queue:
            key.want = 0
            self._pump(key)

    def lost(self, key: SimKey, lease: int) -> None:
        """The lease died with its node: the task on it runs again."""
        if key.leases.pop(lease, None) is None:
            return
        key.idle.pop(lease, None)
        key.recalled.discard(lease)
        task = key.running.pop(lease, None)
        if task is not None:
            key.queue.appendleft(task)
            self.cluster.retries += 1
        key.want = 0
        self._pump(key)


class SchedulingNode:
    """One simulated node."""

    def __init__(self, cluster: SchedulingCluster, index: int, total: dict[str, int], labels: dict[str, str]) -> None:
        self.cluster, self.index = cluster, index
        self.name = (index + 1).to_bytes(4, "big") + bytes(4)
        self.total, self.labels = total, labels
        local = LocalScheduler(total, labels, node=self.name, next_lease=count(((index + 1) << 40) + 1).__next__)
        self.scheduler = BottomUpScheduler(local, self.name, labels, seed=cluster.net.seed + index,
                                           kernels=cluster.kernels, **cluster.settings)
        self.alive = True
        self.workers = 0  # idle workers
        self.fork_until = 0.0
        self.link_until = 0.0
        self.wake_at = float("inf")

    def settle(self) -> None:
        """Step the scheduler, perform its effects, set its timer."""
        cluster = self.cluster
        if not self.alive:
            return
        for effect in self.scheduler.step(cluster.net.now):
            cluster.perform(self, effect)
        if cluster.checking:
            self.scheduler.check()
        due = self.scheduler.deadline()
        if due is not None and due < self.wake_at:
            self.wake_at = due
            cluster.net.call_at(due, self._wake, due)

    def _wake(self, due: float) -> None:
        if due == self.wake_at:
            self.wake_at = float("inf")
            self.settle()

    def worker(self) -> float:
        """The time when a worker for a grant is up."""
        if self.workers:
            self.workers -= 1
            return self.cluster.net.now
        self.fork_until = max(self.fork_until, self.cluster.net.now) + self.cluster.costs.worker_start_s
        return self.fork_until


class _Network(SimNetwork):
    """Hashes the kind, ends and time of events, but not the contents: rows of 1000 nodes are long."""

    def trace(self, *event: Any) -> None:
        self._trace.update(repr((self.now, event[:4])).encode())


class SchedulingCluster:
    """Nodes with ``totals`` by name (amounts as users write them) and perhaps ``labels``."""

    def __init__(self, totals: list[dict[str, float]], labels: list[dict[str, str]] | None = None, *, seed: int = 0,
                 costs: Costs | None = None, compiled: bool = False, checking: bool = False, **settings: Any) -> None:
        self.net = _Network(seed)
        self.costs, self.checking, self.settings = costs or Costs(), checking, settings
        self.kernels = Kernels.load() if compiled else None
        self.tasks = self.retries = 0
        self.runs: list[tuple[int, float, float]] = []
        self.latencies: list[float] = []
        self.completed: dict[int, int] = {}  # task -> how often it was seen to end
        self.owners: dict[bytes, Owner] = {}
        self.actors: dict[Any, int] = {}  # token -> index of the node that holds it
        self.messages = 0
        self._arrivals: dict[tuple[int, int], float] = {}  # of the last message on a link: links keep their order
        self._place_leases: dict[Any, tuple[SchedulingNode, int]] = {}
        self.nodes: list[SchedulingNode] = []
        self.by_name: dict[bytes, SchedulingNode] = {}
        for index, total in enumerate(totals):
            named = {name: units(value, name) for name, value in total.items()}
            node = SchedulingNode(self, index, named, (labels or [{}] * len(totals))[index])
            self.nodes.append(node)
            self.by_name[node.name] = node
        for node in self.nodes:
            for other in self.nodes:
                node.scheduler.node_joined(other.name, other.total, other.labels, 0.0)
        for node in self.nodes:
            node.settle()

    # -------------------------------------------------------------- calls of tests and studies

    def owner(self, node: int, job: int = 1) -> Owner:
        name = self.nodes[node].name[:4] + (0x8000_0000 | len(self.owners)).to_bytes(4, "big")
        owner = self.owners[name] = Owner(self, self.nodes[node], name, job)
        return owner

    def actor(self, node: int, token: Any, demand: dict[str, float], strategy: dict | None = None) -> None:
        """An actor with home ``node`` asks for a place, and keeps it."""
        named = {name: units(value, name) for name, value in demand.items()}
        self.nodes[node].scheduler.request(token, 1, named, strategy, self.net.now)
        self.nodes[node].settle()

    def kill(self, index: int) -> None:
        """The node stops at once; the others learn of it ``detect_s`` later."""
        dead = self.nodes[index]
        dead.alive = False
        self.net.trace("kill", index)
        for owner in self.owners.values():
            if owner.node is dead:
                owner.alive = False
        for node in self.nodes:
            if node.alive:
                self.net.call_at(self.net.now + self.costs.detect_s, self._learn_of_death, node, dead)

    def _learn_of_death(self, node: SchedulingNode, dead: SchedulingNode) -> None:
        if not node.alive:
            return
        gone = node.scheduler.node_ended(dead.name, self.net.now)
        for lease in gone.orphans:  # their workers end
            node.scheduler.local.release(lease, self.net.now)
        for name, number, lease in gone.lost:
            owner = self.owners[name]
            owner.lost(owner.keys[number], lease)
        node.settle()

    def drain(self, index: int) -> None:
        self.nodes[index].scheduler.drain(self.net.now)
        self.nodes[index].settle()

    def run_until(self, when: float, condition: Callable[[], bool] | None = None) -> bool:
        return self.net.run_until(when, condition)

    def done(self) -> bool:
        """Every task of a living owner has ended."""
        return not any(key.queue or key.running for owner in self.owners.values() if owner.alive
                       for key in owner.keys.values())

    def check(self) -> None:
        for node in self.nodes:
            if node.alive:
                node.scheduler.check()

    # -------------------------------------------------------------- links

    def delay(self, one: SchedulingNode, other: SchedulingNode) -> float:
        if one is other:
            return self.costs.inside_s
        return self.net.random.uniform(self.costs.link_s_min, self.costs.link_s_max)

    def deliver(self, source: SchedulingNode, target: SchedulingNode, action: Callable[..., Any], *args: Any) -> None:
        """Call ``action(*args)`` at the target after the link's delay, in order; lost when the target is dead."""
        link = source.index, target.index
        arrival = max(self.net.now + self.delay(source, target), self._arrivals.get(link, 0.0))
        self._arrivals[link] = arrival
        self.messages += source is not target
        self.net.call_at(arrival, self._arrive, target, action, args)

    def _arrive(self, target: SchedulingNode, action: Callable[..., Any], args: tuple) -> None:
        if target.alive:
            self.net.trace("arrive", target.index, getattr(action, "__name__", ""), len(args))
            action(*args)
            target.settle()

    def to_home(self, owner: Owner, action: Callable[..., Any], *args: Any) -> None:
        """A call of an owner to its node; ``now`` is added."""
        self.deliver(owner.node, owner.node, self._say, action, args)

    def _say(self, action: Callable[..., Any], args: tuple) -> None:
        action(*args, self.net.now)

    # -------------------------------------------------------------- effects

    def perform(self, node: SchedulingNode, effect: Any) -> None:
        kind = type(effect)
        if kind is SchedulerMessage:
            self.deliver(node, self.by_name[effect.node], self._message, self.by_name[effect.node], node.name,
                         effect.message)
        elif kind is RelayToNode:
            target = self.by_name[effect.node]
            self.deliver(node, target, self._relayed, target, effect.owner, effect.message)
        elif kind is Grant:
            self._granted(node, effect)
        elif kind is Status:
            home = self._home_of(effect.owner)
            if effect.token is None and home is not None and home is not node:
                self._status(node, home, effect.owner, effect.key, effect.cause, effect.detail)
        elif kind is Recall:
            owner = self.owners.get(effect.owner)
            if owner is not None and owner.alive:
                self.deliver(node, owner.node, self._recalled, owner, effect.lease)
        elif kind is PlaceRequest:
            target = self.by_name[effect.node]
            self.deliver(node, target, self._place, target, (node.name, effect.token), effect.strategy,
                         node.scheduler.spillback.requests[effect.token].lane.demand)
        elif kind is UnplaceRequest:
            target = self.by_name[effect.node]
            self.deliver(node, target, self._unplace, target, (node.name, effect.token))

    def _status(self, node: SchedulingNode, home: SchedulingNode, owner: bytes, key: int, cause: int,
                detail: str) -> None:
        self.deliver(node, home, self._say, home.scheduler.status_elsewhere,
                     (node.name, owner, key, int(cause), detail))

    def _message(self, target: SchedulingNode, source: bytes, message: Any) -> None:
        target.scheduler.message(source, message, self.net.now)

    def _relayed(self, target: SchedulingNode, owner: bytes, message: Any) -> None:
        local = target.scheduler.local
        if type(message) is m.LeaseKey:
            local.declare(owner, message.job, message.key, message.demand, message.strategy, message.name)
        elif (owner, message.key) in local.entries:
            local.want(owner, message.key, message.want, message.granted, self.net.now)

    def _granted(self, node: SchedulingNode, grant: Grant) -> None:
        ready = node.worker()
        if grant.token is not None:
            self._actor_granted(node, grant)
            return
        home = self._home_of(grant.owner)
        if home is None or not home.alive:
            return
        if ready > self.net.now and home is not node:
            self._status(node, home, grant.owner, grant.key, Cause.WORKER_STARTING, "")
        self.net.call_at(ready, self._lease_ready, node, home, grant)

    def _lease_ready(self, node: SchedulingNode, home: SchedulingNode, grant: Grant) -> None:
        if node.alive and grant.lease in node.scheduler.local.leases:
            self.deliver(node, home, self._lease_arrives, home, node, grant)

    def _lease_arrives(self, home: SchedulingNode, node: SchedulingNode, grant: Grant) -> None:
        owner = self.owners[grant.owner]
        wanted = owner.alive and (home is node or home.scheduler.granted_elsewhere(
            node.name, grant.owner, grant.key, grant.lease, self.net.now))
        if wanted and node.name in home.scheduler.view.row_of:
            owner.grant(owner.keys[grant.key], grant.lease, node)
            held = node.scheduler.local.leases.get(grant.lease)
            if held is not None and held.recalled and node.alive:  # it was recalled before its worker was up
                owner.recall(grant.lease)

    def _recalled(self, owner: Owner, lease: int) -> None:
        if owner.alive:
            owner.recall(lease)

    def give_back(self, owner: Owner, lease: int, node: SchedulingNode) -> None:
        """An owner returns a lease through its home."""
        self.deliver(owner.node, owner.node, owner.node.scheduler.spillback.lease_over, lease)
        self.deliver(owner.node, node, self._released, node, lease)

    def _released(self, node: SchedulingNode, lease: int) -> None:
        if node.scheduler.local.release(lease, self.net.now):
            node.workers += 1

    def _home_of(self, owner: bytes) -> SchedulingNode | None:
        return self.by_name.get(owner[:4] + bytes(4)) if owner else None

    def finished(self, task: SimTask, node: SchedulingNode, started: float, ended: float) -> None:
        self.completed[task.number] = self.completed.get(task.number, 0) + 1
        self.runs.append((node.index, started, ended))
        self.latencies.append(ended - task.submitted)

    # -------------------------------------------------------------- actors

    def _place(self, target: SchedulingNode, token: Any, strategy: dict, demand: dict[str, int]) -> None:
        target.scheduler.local.request(token, 1, demand, strategy, self.net.now)

    def _unplace(self, target: SchedulingNode, token: Any) -> None:
        if not target.scheduler.local.cancel_request(token):
            node, lease = self._place_leases.get(token, (None, 0))
            if node is target:
                del self._place_leases[token]
                target.scheduler.local.release(lease, self.net.now)

    def _actor_granted(self, node: SchedulingNode, grant: Grant) -> None:
        token = grant.token
        if isinstance(token, tuple) and token[0] in self.by_name:  # of another home
            self._place_leases[token] = node, grant.lease
            home = self.by_name[token[0]]
            self.deliver(node, home, self._actor_placed, home, node, token, grant.lease)
        else:
            self.actors[token] = node.index

    def _actor_placed(self, home: SchedulingNode, node: SchedulingNode, token: Any, lease: int) -> None:
        if home.scheduler.placed_elsewhere(token[1], node.name, self.net.now):
            self.actors[token[1]] = node.index
        elif self._place_leases.get(token) == (node, lease):
            del self._place_leases[token]
            self.deliver(home, node, self._released, node, lease)


# ------------------------------------------------------------------ evaluation of runs


def running(runs: list[tuple[int, float, float]], nodes: int, step_s: float) -> list[list[int]]:
    """Tasks that run on each node at 0, step_s, 2 step_s, ...: one list a time."""
    end = max((end for _, _, end in runs), default=0.0)
    changes = [[0] * (nodes + 0) for _ in range(int(end / step_s) + 2)]
    for node, start, finish in runs:
        first, last = int(-(-start // step_s)), int(-(-finish // step_s))
        changes[first][node] += 1
        changes[last][node] -= 1
    counts, now = [], [0] * nodes
    for change in changes:
        now = [count + delta for count, delta in zip(now, change, strict=True)]
        counts.append(now)
    return counts


def jain(values: Iterable[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has all (Jain, Chiu, Hawe 1984)."""
    xs = list(values)
    squares = sum(x * x for x in xs)
    return sum(xs) ** 2 / (len(xs) * squares) if squares else 1.0


__all__ = ["Costs", "Owner", "SchedulingCluster", "jain", "running"]
