"""GroupTable: the placement groups whose home is this node.  Pure; all transitions of a group are in this file.

    state         event                            next           what happens
    (none)        create, its name is free         PENDING        its row is written, a place is looked for
    PENDING       a place is found                 PENDING        a round: attempt + 1, BundleReserve to its nodes
    PENDING       all nodes of the round agreed    CREATED        BundleCommit to them, until each has acknowledged
    PENDING       refusal, time-out, node death    PENDING        BundleReturn to all of the round; again later
    PENDING       the round waits, the view shows  PENDING        the same, and a round there at once
                  space elsewhere
    CREATED       a node of it died                RESCHEDULING   bundles there have no place; rounds as above
    RESCHEDULING  all nodes of the round agreed    CREATED
    any           remove, its job is over          REMOVED        BundleReturn(removed) to every node it had or asked
    (elsewhere)   its home died, it is adopted     as it was      BundleCommit again for the bundles in its row;
                                                                  bundles that their node does not know are placed anew

The commit has two phases: a node reserves bundles or refuses.  They are put to use only when all
nodes of a round have reserved, so a group is placed as a whole or not at all.  BundleCommit and
BundleReturn are sent again until they are acknowledged or the node is dead.

A round asks for resources that are free in the view, all its nodes at once.  A round *waits* where
the bundles would fit, but not now, and after a node refused resources that were free in the view.
Then the nodes queue for them, fairly with tasks, for at most QUEUE_S.  Nodes that did not supply
them are avoided in the next round.

Homes do not know each other's rounds.  So that they never wait for each other, a round that waits
asks its nodes one after the other, in the order of their names.  The home that holds the last node
in this order waits for no other home (Havender, "Avoiding deadlock in multitasking systems", IBM
Systems Journal 1968).

Each change of the view is a reason to look for a place again, also for a group whose round waits:
the round gives way when there is space elsewhere.  But resources that a node just reserved for it
look like a loss in the view, and resources that it gives up look like a gain.  So a round that
follows one which gave way stands for PAUSE_S_MIN at least, twice as long each time: in that time
its nodes answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from zray.base.causes import Cause
from zray.node.groups.records import (
    GROUP_CREATED,
    GROUP_PENDING,
    GROUP_REMOVED,
    GROUP_RESCHEDULING,
    PAUSE_S_MIN,
    REMOVED_KEPT_MAX,
    Group,
    Round,
)
from zray.sched.cluster import packing
from zray.sched.view import ClusterView
from zray.wire.messages import (
    BundleAck,
    BundleCommit,
    BundleReserve,
    BundleReserved,
    BundleReturn,
    GroupReply,
    GroupState,
)

# A node answers at once to a reserve that does not wait; after this long the message or the node is lost.
RESERVE_ANSWER_S = 3.0
# A round that queues on its nodes gives up after this long: resources that some of them hold are idle meanwhile.
QUEUE_S = 2.0
# The same on a lone node, where no other place exists.
QUEUE_ALONE_S = 60.0
# Commit and return are sent again after this long without an acknowledgement.
AGAIN_S = 1.0
# Between rounds of one group, doubling from PAUSE_S_MIN; a change of the view starts one at once.
PAUSE_S_MAX = 2.0
GROUPS_MAX = 10_000
# How many groups one change of the view is tried for.
TRIED_MAX = 64
# A new home numbers its versions so far ahead that no message of its predecessor, written or not, is later.
ADOPTION_STEP = 1 << 20


class GroupPorts(Protocol):
    """Ports of the table."""

    def view(self) -> ClusterView:
        """All live nodes by incarnation, with their free resources."""

    def send(self, node: bytes, message: Any) -> None:
        """Send to a node, perhaps this one."""

    def reply(self, peer: bytes, message: Any) -> None:
        """Send to a core process."""

    def changed(self, state: GroupState) -> None:
        """A group has another state."""

    def claim_name(self, namespace: str, name: str, group: bytes, then: Callable[[bytes], None]) -> None: ...

    def release_name(self, namespace: str, name: str, group: bytes) -> None: ...

    def record(self, group: bytes, row: dict[str, Any] | None) -> None:
        """Write the group's row of the control store."""

    def node_id(self, node: bytes) -> str:
        """The hex NodeID of an incarnation."""


class GroupTable:
    """All groups whose home is this node."""

    def __init__(self, ports: GroupPorts, me: bytes) -> None:
        self.ports = ports
        self.me = me
        self.groups: dict[bytes, Group] = {}
        # pending and rescheduling; the one that was tried longest ago comes first
        self.unplaced: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}
        # (group, node, attempt) -> [message, time to resend]
        self._unacked: dict[tuple[bytes, bytes, int], list[Any]] = {}
        self._fresh = True  # the view may have changed since the last look

    # ------------------------------------------------------------ messages of core processes

    def create(self, peer: bytes, group: bytes, job: int, spec: dict, request: int, now: float) -> None:
        """CreateGroup."""
        if group in self.groups:  # a duplicate of a request
            self._answer(peer, request, "", group, "")
            return
        try:
            fresh = Group(group, job, spec, now)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._turn_away(peer, request, group, "refused", f"not a placement group: {error}")
            return
        if len(self.groups) - len(self._removed) >= GROUPS_MAX:
            self._turn_away(peer, request, group, "refused", f"this node has {GROUPS_MAX} placement groups, its limit")
            return
        if not fresh.name:
            self._admit(fresh)
            self._answer(peer, request, "", group, "")
            return

        def named(holder: bytes) -> None:
            if holder == group:
                self._admit(fresh)
                self._answer(peer, request, "", group, "")
            else:
                self._turn_away(peer, request, group, "name_taken",
                                f"the name {fresh.name!r} is taken in namespace {fresh.namespace!r}")

        self.ports.claim_name(fresh.namespace, fresh.name, group, named)

    def remove(self, group: bytes, reason: str, now: float) -> None:
        """RemoveGroup, or the end of its job.  Nothing for a group that is unknown or removed."""
        found = self.groups.get(group)
        if found is None or found.state == GROUP_REMOVED:
            return
        for key in [key for key in self._unacked if key[0] == group]:
            del self._unacked[key]  # the messages below replace these
        for node in sorted(found.used):
            self._send_until_acked(node, BundleReturn(group, found.attempt, True), now)
        found.used = set()
        found.round = None
        found.place(dict.fromkeys(range(len(found.nodes)), b""))
        self.unplaced.pop(group, None)
        self._removed[group] = None
        if found.name:
            self.ports.release_name(found.namespace, found.name, group)
        self._change(found, GROUP_REMOVED, Cause.GROUP_REMOVED, reason)
        while len(self._removed) > REMOVED_KEPT_MAX:
            oldest = next(iter(self._removed))
            del self._removed[oldest], self.groups[oldest]
            self.ports.record(oldest, None)

    def job_ended(self, job: int, now: float) -> None:
        """Its groups go with it; detached ones stay."""
        for found in [g for g in self.groups.values() if g.job == job and not g.detached and g.state != GROUP_REMOVED]:
            self.remove(found.id, "its job is over", now)

    def adopt(self, group: bytes, row: dict[str, Any], live: set[bytes], now: float) -> None:
        """Adopt a group whose home died; ``row`` is the last that the home wrote, ``live`` all live nodes."""
        about = {"bundles": row["units"], "strategy": row["strategy"], "name": row["name"],
                 "namespace": row["ray_namespace"], "detached": row["is_detached"],
                 "soft_target": row.get("soft_target", b"")}
        found = Group(group, row["creator_job_id"], about, now)
        found.version = row["version"] + ADOPTION_STEP
        found.attempt = row["attempts"] + ADOPTION_STEP
        found.rounds = list(row["rounds"])
        found.created_s = row["created_s"]
        found.place({index: node for index, node in enumerate(row["nodes"]) if node in live})
        found.used = set(live)
        self.groups[group] = found
        for node, attempt in sorted({(n, a) for n, a in zip(found.nodes, found.rounds, strict=True) if n}):
            self._send_until_acked(node, BundleCommit(group, attempt), now)
        if found.missing:
            self.unplaced[group] = None
            self._fresh = True
            self._change(found, GROUP_PENDING if found.created_s is None else GROUP_RESCHEDULING, Cause.GROUP_PENDING,
                         "its home node died; it has another one now")
        else:
            self._change(found, GROUP_CREATED, Cause.READY, "")

    # ------------------------------------------------------------ messages of nodes

    def reserved(self, node: bytes, message: BundleReserved, now: float) -> None:
        """BundleReserved."""
        found = self.groups.get(message.group)
        current = found.round if found is not None and found.attempt == message.attempt else None
        if found is None or current is None or node not in current.asked:
            return  # of a round that is over: its return is in flight
        if not message.ok:
            found.contended = True
            self._abort(found, now, f"node {self.ports.node_id(node)[:12]} could not set them aside: {message.detail}",
                        {node} if current.waits else set())
            return
        if node in current.yes:
            return
        current.yes.add(node)
        if len(current.yes) == len(current.nodes):
            self._placed(found, now)
        elif current.waits:
            current.deadline = now + current.patience_s
            self._ask(found)

    def acked(self, node: bytes, message: BundleAck, now: float) -> None:
        """BundleAck."""
        key = (message.group, node, message.attempt)
        sent = self._unacked.get(key)
        if sent is None or message.state not in _answers(sent[0]):
            return  # the answer to an earlier message
        del self._unacked[key]
        if message.state == "UNKNOWN":
            self._lost(node, now, only=message.group)  # the node has given the bundles up: it took this node for dead

    def node_ended(self, node: bytes, now: float) -> None:
        """Every bundle there is lost; rounds that asked it begin anew."""
        for key in [key for key in self._unacked if key[1] == node]:
            del self._unacked[key]
        self._lost(node, now)
        self._fresh = True

    def _lost(self, node: bytes, now: float, only: bytes | None = None) -> None:
        for found in [g for g in self.groups.values() if g.state != GROUP_REMOVED and (only is None or g.id == only)]:
            found.avoid.discard(node)
            if only is None:
                found.used.discard(node)
            if found.round is not None and (node in found.round.nodes or node in found.nodes):
                self._abort(found, now, "a node that has a bundle of it, or was asked for one, died", set())
            if node in found.nodes:
                found.place({index: b"" for index, place in enumerate(found.nodes) if place == node})
                found.retry_at = now
                self.unplaced[found.id] = None
                lost = len(found.missing)
                self._change(found, GROUP_RESCHEDULING, Cause.GROUP_PENDING,
                             f"{lost} of its {len(found.bundles)} bundles lost their node")

    # ------------------------------------------------------------ rounds

    def view_changed(self) -> None:
        """Resources became free: look again at the next :meth:`settle`."""
        self._fresh = True

    def nodes_changed(self, now: float) -> None:
        """A node joined, or has other resources: demands that never fitted may fit now."""
        self._fresh = True
        for group in self.unplaced:
            self.groups[group].retry_at = min(self.groups[group].retry_at, now)

    def settle(self, now: float) -> bool:
        """Look for places for groups that have none; returns whether messages were sent.  Call at
        the end of each event."""
        if not self.unplaced:
            self._fresh = False
            return False
        sent = False
        without_place: set[Any] = set()  # shapes that found no place in this call
        fresh, self._fresh = self._fresh, False
        tried: list[bytes] = []
        for group in list(self.unplaced):
            found = self.groups[group]
            due = found.retry_at <= now and found.round is None
            if not (due or self._should_look_again(found, fresh, now)):
                continue
            if found.request_shape() in without_place and not due:
                continue
            tried.append(group)
            began = self._begin_round_of(found, due, now)
            if began:
                sent = True
            elif began is None and not (found.round is not None and found.round.yes):
                without_place.add(found.request_shape())
            if len(tried) >= TRIED_MAX:
                self._fresh = fresh  # the next call begins with the others
                for other in tried:
                    del self.unplaced[other]
                    self.unplaced[other] = None
                break
        return sent

    @staticmethod
    def _should_look_again(found: Group, fresh: bool, now: float) -> bool:
        """Whether a changed view is a reason to look for a place again."""
        if found.round is None:
            return fresh
        found.view_changed = found.round.waits and (fresh or found.view_changed)
        if not found.view_changed or now < found.steady_until:
            return False
        found.view_changed = False
        return True

    def _begin_round_of(self, found: Group, due: bool, now: float) -> bool | None:
        """Begin a round if bundles miss a place; a round that waits gives way to one that need not wait.

        None when there is no place for its bundles.
        """
        view, missing, current = self.ports.view(), found.missing, found.round
        bundles = [found.bundles[index] for index in missing]
        others = [node for node in found.nodes if node]
        held = [] if current is None else [
            (node, found.bundles[index]) for node in sorted(current.yes) for index in current.nodes[node]]
        nodes = packing.choose(view, bundles, found.strategy, others, held=held, prefer=found.soft_target)
        waits = nodes is not None and found.contended
        if current is not None:
            if nodes is None:
                return None
            if _by_node(missing, nodes) == current.nodes:
                return False  # the resources that it waits for are in flight
            self._give_up(found, now)
            found.steady_until = now + found.steady_s
            found.steady_s = min(PAUSE_S_MAX, found.steady_s * 2)
        elif nodes is None and due:
            nodes, waits = self._in_future(found, view, bundles, others, now), True
        if nodes is None:
            return None
        found.attempt += 1
        patience_s = RESERVE_ANSWER_S if not waits else QUEUE_S if sum(view.alive) > 1 else QUEUE_ALONE_S
        found.round = Round(_by_node(missing, nodes), waits, patience_s, now)
        self._ask(found)
        return True

    def _in_future(self, found: Group, view: ClusterView, bundles: list[dict[str, int]], others: list[bytes],
                   now: float) -> list[bytes] | None:
        """Where to queue for bundles that fit nowhere now; None, without a further try, while they can never fit."""
        self._pause(found, now)
        nodes = packing.choose(view, bundles, found.strategy, others, found.avoid, "total")
        if nodes is None and found.avoid:
            found.avoid = set()
            nodes = packing.choose(view, bundles, found.strategy, others, by="total")
        if nodes is None:
            found.retry_at = math.inf  # until the nodes change
            why = packing.obstacle(view, bundles, found.strategy, others)
            self._waits(found, Cause.GROUP_INFEASIBLE, why or "no choice of nodes was found for all its bundles")
        else:
            self._waits(found, Cause.GROUP_PENDING, packing.busy(view, bundles, found.strategy))
        return nodes

    def _ask(self, found: Group) -> None:
        """Ask the next nodes of its round."""
        current = found.round
        assert current is not None
        for node in current.to_ask():
            current.asked.add(node)
            found.used.add(node)
            self.ports.send(node, BundleReserve(found.id, found.attempt, found.job, [
                [index, found.bundles[index]] for index in current.nodes[node]], current.waits, found.name))

    def _placed(self, found: Group, now: float) -> None:
        assert found.round is not None
        for node, indices in found.round.nodes.items():
            found.place(dict.fromkeys(indices, node))
            for index in indices:
                found.rounds[index] = found.attempt
            self._send_until_acked(node, BundleCommit(found.id, found.attempt), now)
        found.round = None
        found.avoid = set()
        found.contended = False
        found.pause_s = found.steady_s = PAUSE_S_MIN
        if found.created_s is None:
            found.created_s = now - found.since
        del self.unplaced[found.id]
        self._change(found, GROUP_CREATED, Cause.READY, "")

    def _abort(self, found: Group, now: float, why: str, avoid: set[bytes]) -> None:
        self._give_up(found, now)
        found.avoid |= avoid
        self._pause(found, now)
        if found.cause.get("cause") != Cause.GROUP_PENDING or not found.cause.get("detail"):
            self._waits(found, Cause.GROUP_PENDING, why)

    def _give_up(self, found: Group, now: float) -> None:
        """End the round; its nodes get back the resources that they hold for it."""
        assert found.round is not None
        for node in sorted(found.round.asked):
            if node in found.used:
                self._send_until_acked(node, BundleReturn(found.id, found.attempt, False), now)
        found.round = None

    def _pause(self, found: Group, now: float) -> None:
        found.retry_at = now + found.pause_s
        found.pause_s = min(PAUSE_S_MAX, found.pause_s * 2)

    def _send_until_acked(self, node: bytes, message: Any, now: float) -> None:
        """Send a message again until it is acknowledged."""
        self._unacked[message.group, node, message.attempt] = [message, now + AGAIN_S]
        self.ports.send(node, message)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        for found in [self.groups[group] for group in self.unplaced]:
            current = found.round
            if current is not None and current.deadline <= now:
                silent = current.asked - current.yes
                self._abort(found, now, f"{len(silent)} of {len(current.nodes)} nodes did not set its bundles aside in "
                            "time", silent if current.waits else set())
        for (_, node, _), sent in list(self._unacked.items()):
            if sent[1] <= now:
                sent[1] = now + AGAIN_S
                self.ports.send(node, sent[0])

    def next_deadline(self) -> float | None:
        if not self._unacked and not self.unplaced:
            return None
        if self._fresh and self.unplaced:
            return 0.0  # ``settle`` has more groups to look at than it tries at once
        times = [sent[1] for sent in self._unacked.values()]
        for group in self.unplaced:
            found = self.groups[group]
            times.append(found.retry_at if found.round is None else found.round.deadline)
            if found.round is not None and found.view_changed:
                times.append(found.steady_until)
        first = min(times, default=math.inf)
        return None if first == math.inf else first

    # ------------------------------------------------------------ inside

    def _admit(self, fresh: Group) -> None:
        self.groups[fresh.id] = fresh
        self.unplaced[fresh.id] = None
        self._fresh = True
        self.ports.record(fresh.id, fresh.row(self.ports.node_id, self.me))
        self.ports.changed(fresh.state_message())

    def _change(self, found: Group, state: str, cause: int, detail: str) -> None:
        found.state = state
        found.version += 1
        found.cause = {"cause": int(cause), "detail": detail}
        self.ports.record(found.id, found.row(self.ports.node_id, self.me))
        self.ports.changed(found.state_message())

    def _waits(self, found: Group, cause: int, detail: str) -> None:
        """The same state, another cause."""
        if found.cause != {"cause": int(cause), "detail": detail}:
            self._change(found, found.state, cause, detail)

    def _turn_away(self, peer: bytes, request: int, group: bytes, error: str, detail: str) -> None:
        self._answer(peer, request, error, group, detail)
        cause = {"cause": int(Cause.GROUP_REMOVED), "detail": detail}
        self.ports.changed(GroupState(group, 1, GROUP_REMOVED, [], cause))

    def _answer(self, peer: bytes, request: int, error: str, group: bytes, detail: str) -> None:
        if request:
            self.ports.reply(peer, GroupReply(request, error, group, detail))

    # ------------------------------------------------------------ views and invariants

    def rows(self, group: bytes | None = None) -> list[dict[str, Any]]:
        """The rows of all groups, or of that one if it is here."""
        wanted = self.groups.values() if group is None else [self.groups[group]] if group in self.groups else []
        return [found.row(self.ports.node_id, self.me) for found in wanted]

    def job_is_used(self, job: int) -> bool:
        return any(g.job == job and g.state != GROUP_REMOVED for g in self.groups.values())

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for group, found in self.groups.items():
            assert found.id == group and len(found.nodes) == len(found.bundles)
            assert (found.state in (GROUP_PENDING, GROUP_RESCHEDULING)) == (group in self.unplaced)
            assert (found.state == GROUP_REMOVED) == (group in self._removed)
            assert (found.state == GROUP_CREATED) == (not found.missing)
            assert found.round is None or found.missing, "a round for nothing"
            placed = [node for node in found.nodes if node]
            assert set(placed) <= found.used
            if found.round is not None:
                assert found.round.yes <= found.round.asked <= set(found.round.nodes)
                assert found.round.asked <= found.used and len(found.round.yes) < len(found.round.nodes)
                assert sorted(i for indices in found.round.nodes.values() for i in indices) == found.missing
                if found.round.waits:
                    held = sorted(found.round.asked)
                    assert found.round.yes >= set(held[:-1]), "it waits for more than one node"
                    assert held == sorted(found.round.nodes)[:len(held)], "it did not ask in the order of all"
                if found.strategy == "STRICT_SPREAD":
                    assert not set(found.round.nodes) & set(placed)
            if found.strategy == "STRICT_PACK":
                assert len(set(placed)) <= 1, "STRICT_PACK on several nodes"
            if found.strategy == "STRICT_SPREAD":
                assert len(set(placed)) == len(placed), "STRICT_SPREAD with two bundles on one node"
        assert len(self._removed) <= REMOVED_KEPT_MAX


def _by_node(indices: list[int], nodes: list[bytes]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for index, node in zip(indices, nodes, strict=True):
        found.setdefault(node, []).append(index)
    return found


def _answers(message: Any) -> tuple[str, ...]:
    if type(message) is BundleCommit:
        return "COMMITTED", "UNKNOWN"
    return ("REMOVED",) if message.removed else ("RETURNED",)


__all__ = ["GROUP_CREATED", "GROUP_PENDING", "GROUP_REMOVED", "GROUP_RESCHEDULING", "Group", "GroupTable", "GroupPorts"]
