"""The actors of a node: creation, names, restarts, ends.  Pure; every transition of an actor is in this file.

    state       event                         next         what happens
    (none)      create                        PENDING      claim the name, ask for a place
    PENDING     placed                        PENDING      ActorInit to the worker
    PENDING     up, no error                  ALIVE        shrink to the running demand
    PENDING     up, error                     DEAD         kind "init", the pickled error
    PENDING     worker died, restarts left    RESTARTING   life + 1, ask for a place
    RESTARTING  placed, up                    ALIVE        as from PENDING
    ALIVE       worker died, restarts left    RESTARTING   life + 1
    ALIVE       exit that may restart         ALIVE        as from ALIVE once its worker has died
    ALIVE       exit, then worker died        DEAD         kind "exited"
    any         worker died, none left        DEAD         kind "died", with signal, exit code, log tail
    any         kill(no_restart)              DEAD         kind "killed"
    any         owner gone, job over          DEAD         kinds "owner_died", "job_over" (detached actors stay)
    any         its placement group removed   DEAD         kind "pg_removed"
    PENDING, RESTARTING: its only node gone   DEAD         kind "unschedulable"
    any         its state cannot be restored  DEAD         kind "state_lost"

Kinds a DEAD cause may carry: init, died, killed, exited, out_of_scope, owner_died, job_over, name_taken, pg_removed,
unschedulable, state_lost, unknown.


``life`` counts restarts and travels in every message about an actor, so late messages of an earlier
life are ignored.
A watcher of an actor that does not exist yet is kept for a while: the creator's message and a
handle that went through a third process may overtake each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.base.causes import Cause
from zray.base.ids import node_of
from zray.node.actors.recovery import ActorRecovery, RecoveryPorts
from zray.node.effects import JOB_OVER, Note, Send
from zray.wire.messages import (
    CARRYING,
    STORED,
    ActorExit,
    ActorReply,
    ActorState,
    ActorUp,
    CallerSeen,
    CreateActor,
    KillActor,
    SaveCheckpoint,
    StateLost,
    WorkerExit,
)
from zray.wire.messages.actors import ALIVE, DEAD, PENDING, RESTARTING

# How long a watcher of an unknown actor waits for its creation to arrive: messages inside a node take milliseconds.
UNKNOWN_ACTOR_GRACE_S = 2.0
# Dead actors remembered for late watchers and for `zray list actors`.
DEAD_KEPT_MAX = 10_000
# A worker that announced a planned exit and does not end is killed after this long.  Exit handlers
# have 30 s (zray.worker.actors.ends); then the process ends itself and logs where it hung, unless
# native code holds it.
EXIT_GRACE_S = 35.0


class ActorPorts(RecoveryPorts, Protocol):
    """Ports of the table."""

    def place(self, actor: Actor) -> None:
        """Find resources and a worker; answered by :meth:`ActorTable.placed`."""

    def unplace(self, actor: Actor) -> None:
        """Stop looking for a place."""

    def running(self, actor: Actor) -> None:
        """The actor is up: keep only its running demand."""

    def end_worker(self, actor: Actor, reason: str) -> None:
        """Kill its worker process."""

    def claim_name(self, namespace: str, name: str, actor: bytes, then: Callable[[bytes], None]) -> None:
        """Register the name; ``then`` gets the actor that has it afterwards."""

    def release_name(self, namespace: str, name: str, actor: bytes) -> None: ...

    def find_actor(self, actor: bytes, then: Callable[[dict | None], None]) -> None:
        """``then`` gets the row of an actor with another home; None when there is none."""

    def find_name(self, namespace: str, name: str, then: Callable[[bytes], None]) -> None:
        """``then`` gets the actor with that name, b'' for none."""

    def not_made(self, actor: Actor) -> None:
        """Another actor has its name."""

    def erase(self, actor: bytes) -> None:
        """Delete the row: the actor ended long ago."""


class Actor:
    """One actor over all its lives."""

    __slots__ = ("assigned", "callers", "cause", "checkpoint", "checkpoint_nodes", "endpoint", "exit_deadline",
                 "exiting", "id", "last_worker", "lease", "life", "owner", "pid", "placed_s", "recycle_reason",
                 "repr_name", "restarts_left", "spec", "started", "state", "up_s", "watchers", "worker")

    def __init__(self, actor: bytes, spec: dict, owner: bytes, now: float):
        self.id = actor
        self.spec = spec
        self.owner = owner
        self.state = PENDING
        self.life = 0
        self.restarts_left = int(spec.get("max_restarts", 0))
        self.worker = b""
        self.endpoint = ""
        self.pid = 0
        self.lease = 0
        self.assigned: dict = {}
        self.cause: dict = {}
        self.watchers: set[bytes] = set()
        self.exiting = ""  # the reason why it will not be restarted
        self.recycle_reason = ""  # the reason why its process ends, after which it may restart
        self.exit_deadline = 0.0
        self.started = now
        self.placed_s = self.up_s = 0.0  # of this life: when it got a worker, and when its constructor had run
        self.repr_name = ""
        self.last_worker = b""
        self.checkpoint: dict | None = None  # the place of the last one (SaveCheckpoint), and its start
        self.checkpoint_nodes: set[bytes] = set()  # nodes that may have files of it
        self.callers: set[bytes] = set()  # processes that have called it, and live

    @property
    def name(self) -> str:
        return self.spec.get("name") or ""

    @property
    def namespace(self) -> str:
        return self.spec.get("namespace") or ""

    @property
    def job(self) -> int:
        return self.spec.get("job", 0)

    @property
    def detached(self) -> bool:
        return bool(self.spec.get("detached"))

    @property
    def unready(self) -> bool:
        """Whether its creator waits for arguments of the constructor: it has no place until the creator says more."""
        return bool(self.spec.get("unready"))

    @property
    def has_checkpoints(self) -> bool:
        return bool(self.spec.get("checkpoints"))

    def state_message(self) -> ActorState:
        if self.state == ALIVE:
            cause = {"pid": self.pid} | self.cause
            if self.has_checkpoints:
                cause["checkpoints"] = True
            return ActorState(self.id, ALIVE, self.life, self.worker, self.endpoint, cause)
        return ActorState(self.id, self.state, self.life, b"", "", self.cause)

    def row(self) -> dict:
        """As the state API shows it."""
        return {"actor_id": self.id, "class_name": self.spec.get("class_name", ""), "state": self.state,
                "name": self.name, "ray_namespace": self.namespace, "job_id": self.job, "pid": self.pid,
                "num_restarts": self.life, "is_detached": self.detached, "worker": self.worker,
                "repr_name": self.repr_name,
                "required_resources": self.spec.get("demand", {}), "death_cause": self.cause}

    def record(self, home: bytes) -> dict:
        """Its row of the control store, for calls from other nodes, and for adoption if it is detached."""
        spec = self.spec if self.detached and self.state != DEAD else None
        recovery = {"checkpoints": True, "checkpoint": self.checkpoint, "callers": sorted(self.callers),
                    "checkpoint_nodes": sorted(self.checkpoint_nodes)} if self.has_checkpoints else {}
        return self.row() | recovery | {
            "home": home, "endpoint": self.endpoint, "owner": self.owner, "lease": self.lease,
            "meta": self.spec.get("meta", b""), "restarts_left": self.restarts_left, "spec": spec}


class ActorTable:
    """All actors with their home on this node."""

    def __init__(self, ports: ActorPorts, emit: Callable[[Any], None], clock: Callable[[], float]):
        self._ports = ports
        self._emit = emit
        self.recovery = ActorRecovery(ports, emit)
        self._clock = clock  # the time of the event that is being handled
        self.actors: dict[bytes, Actor] = {}
        self._dead: dict[bytes, None] = {}  # oldest first
        self._owned: dict[bytes, set[bytes]] = {}  # owner incarnation -> its live, not detached actors
        self._watched: dict[bytes, set[bytes]] = {}  # watcher -> actors
        self._unknown: dict[bytes, tuple[float, set[bytes]]] = {}  # actor -> (deadline, watchers)
        self._claims: dict[bytes, int] = {}  # detached actor whose name is being claimed -> its job
        self._leaving: dict[bytes, None] = {}  # actors with an exit deadline

    # ------------------------------------------------------------ messages

    def create(self, peer: bytes, message: CreateActor, now: float) -> None:
        """CreateActor: claim the name if there is one, then look for a place; reply when the
        message asks for it."""
        known = self.actors.get(message.actor)
        if known is not None:  # a retry of a request that arrived, unless its arguments were not ready then
            if known.unready and known.state != DEAD:
                self._arguments_ended(known, message.spec)
            self._reply(peer, message.request, known)
            return
        spec = message.spec
        actor = Actor(message.actor, spec, peer, now)
        if actor.name:
            if actor.detached:
                self._claims[actor.id] = actor.job
            self._ports.claim_name(actor.namespace, actor.name, actor.id,
                                   lambda holder: self._named(actor, holder, message.request, now))
        else:
            self._admit(actor)
            self._reply(peer, message.request, actor)

    def _arguments_ended(self, actor: Actor, spec: dict) -> None:
        """The arguments of the constructor are ready, or one has failed."""
        if "failed" in spec:
            self._end(actor, spec["failed"])
        elif not spec.get("unready"):
            actor.spec = spec
            self._ports.place(actor)

    def lookup(self, peer: bytes, name: str, namespace: str, request: int) -> None:
        def found(holder: bytes) -> None:
            actor = self.actors.get(holder)
            if actor is not None and actor.state != DEAD:
                self._reply(peer, request, actor)
            elif actor is None and holder:
                self._ports.find_actor(holder, answer)
            else:
                answer(None)

        def answer(row: dict | None) -> None:
            if row is None or row["state"] == DEAD:
                self._refuse(peer, request, "no_such_actor", b"", f"no actor named {name!r} in namespace {namespace!r}")
            else:
                self._emit(Send(peer, ActorReply(request, "", row["actor_id"], row["meta"], row["owner"])))

        self._ports.find_name(namespace, name, found)

    def watch(self, peer: bytes, actor_id: bytes, now: float) -> None:
        actor = self.actors.get(actor_id)
        if actor is not None:
            self._add_watcher(actor, peer)
            self._emit(Send(peer, actor.state_message()))
        else:
            deadline, watchers = self._unknown.setdefault(actor_id, (now + UNKNOWN_ACTOR_GRACE_S, set()))
            watchers.add(peer)

    def kill(self, message: KillActor, now: float) -> None:
        """KillActor; ``graceful`` when an owner's last handle is gone."""
        actor = self.actors.get(message.actor)
        if actor is None or actor.state == DEAD:
            return
        if message.graceful:
            if not actor.exiting:
                actor.exiting = message.reason or "all its handles went out of scope"
                actor.cause = {"kind": "out_of_scope", "reason": actor.exiting}
            if actor.state == ALIVE:
                self._emit(Send(actor.worker, WorkerExit(actor.exiting)))
            return
        reason = message.reason or "it was killed by `ray.kill`"
        if message.no_restart or not self._may_restart(actor):
            self._end(actor, {"kind": "killed", "reason": reason})
        elif actor.worker:
            self._ports.end_worker(actor, reason)  # its death restarts it
        elif not actor.unready:
            self._ports.unplace(actor)
            self._restart(actor, {"kind": "killed", "reason": reason})

    def up(self, peer: bytes, message: ActorUp) -> None:
        """ActorUp: the constructor returned or raised."""
        actor = self._current(peer, message.actor, message.life)
        if actor is None or actor.state == ALIVE:
            return
        actor.up_s = self._clock()
        if message.error:
            self._end(actor, {"kind": "init", "reason": "its constructor raised", "error": message.error,
                              "message": message.message})
            return
        actor.repr_name = message.repr_name
        actor.state = ALIVE
        actor.cause = actor.cause if actor.exiting else {}
        self._ports.running(actor)
        self._changed(actor)
        if actor.exiting:
            self._emit(Send(actor.worker, WorkerExit(actor.exiting)))

    def exit(self, peer: bytes, message: ActorExit, now: float) -> None:
        """ActorExit: the worker ends on purpose; the actor is DEAD, or restarts, once the process is gone."""
        actor = self._current(peer, message.actor, message.life)
        if actor is None:
            return
        if message.may_restart and not actor.exiting:
            actor.recycle_reason = message.reason
        else:
            if not actor.exiting:
                actor.exiting = message.reason or "it exited"
                actor.cause = {"kind": "exited", "reason": actor.exiting}
        actor.exit_deadline = now + EXIT_GRACE_S
        self._leaving[actor.id] = None

    # ------------------------------------------------------------ the node around it

    def placed(self, actor_id: bytes, life: int, worker: Any, lease: int, assigned: dict) -> bool:
        """A worker is ready.  False: the actor does not need it any more."""
        actor = self.actors.get(actor_id)
        if actor is None or actor.state in (DEAD, ALIVE) or actor.life != life or actor.worker:
            return False
        actor.worker = actor.last_worker = worker.incarnation
        actor.endpoint = worker.endpoint
        actor.pid = worker.pid
        actor.placed_s, actor.up_s = self._clock(), 0.0
        actor.lease = lease
        actor.assigned = assigned
        self._emit(Send(actor.worker, self.recovery.init(actor, assigned)))
        return True

    def waiting(self, actor_id: bytes, cause: int, detail: str) -> None:
        """The reason why it has no place yet."""
        actor = self.actors.get(actor_id)
        if actor is None or actor.state not in (PENDING, RESTARTING) or actor.exiting:
            return
        why = {"cause": cause, "detail": detail}
        if actor.state == RESTARTING:  # calls that fail meanwhile say what ended the life before
            why = {**actor.cause, **why}
        if actor.cause != why:
            actor.cause = why
            self._notify_watchers(actor)

    def worker_died(self, actor_id: bytes, worker: bytes, death: dict) -> None:
        """Its process ended; ``death`` has signal, exit_code, pid, log_tail, reason."""
        actor = self.actors.get(actor_id)
        if actor is None or actor.worker != worker or actor.state == DEAD:
            return
        self._leaving.pop(actor.id, None)
        if actor.recycle_reason:
            death = {**death, "reason": actor.recycle_reason}
            actor.recycle_reason = ""
        if death.get("given_back") and actor.state != ALIVE and not actor.exiting:
            actor.worker, actor.endpoint, actor.lease = b"", "", 0
            self._ports.place(actor)  # this home gave that place back itself: no life has begun
        elif actor.exiting:
            cause = actor.cause if "kind" in actor.cause else {"kind": "exited", "reason": actor.exiting}
            self._end(actor, {**death, **cause})
        elif self._may_restart(actor):
            self._restart(actor, {**death, "kind": "died"})
        else:
            self._end(actor, {**death, "kind": "died"})

    # ------------------------------------------------------------ checkpoints (zray.node.actors.recovery)

    def caller_seen(self, peer: bytes, message: CallerSeen) -> None:
        actor = self._current(peer, message.actor, message.life)
        if actor is not None:
            self.recovery.caller_seen(actor, message)

    def checkpointed(self, peer: bytes, message: SaveCheckpoint) -> None:
        actor = self._current(peer, message.actor, message.life)
        if actor is not None:
            self.recovery.checkpointed(actor, message)
        else:
            self.recovery.checkpointed_late(self.actors.get(message.actor), message)

    def state_lost(self, peer: bytes, message: StateLost) -> None:
        """StateLost: it ends, whatever restarts are left."""
        actor = self._current(peer, message.actor, message.life)
        if actor is not None:
            self._end(actor, {"kind": "state_lost", "reason": f"its state is lost: {message.reason}"})

    def process_ended(self, peer: bytes) -> None:
        """A core process ended: its watches end, and so do the actors that it owned."""
        self.recovery.caller_ended(peer)
        for actor_id in self._watched.pop(peer, ()):
            actor = self.actors.get(actor_id)
            if actor is not None:
                actor.watchers.discard(peer)
        for actor_id in sorted(self._owned.get(peer, ())):
            self._end(self.actors[actor_id], {"kind": "owner_died", "reason": "the process that created it ended"})

    def owners_on(self, node: bytes) -> set[bytes]:
        """Processes of that node that own, watch or have called actors of this table."""
        known = (*self._owned, *self._watched, *self.recovery.callers)
        return {process for process in known if node_of(process) == node}

    def living_on(self, node: bytes) -> list[Actor]:
        return [a for a in self.actors.values() if a.worker and a.state != DEAD and node_of(a.worker) == node]

    def adopt(self, actor_id: bytes, row: dict, now: float) -> Actor:
        """The home of a detached actor has died: this node is its home now.  ``row`` is its row, spec included."""
        actor = self.actors[actor_id] = Actor(actor_id, row["spec"], row["owner"], now)
        actor.state, actor.life = row["state"], row["num_restarts"]
        actor.restarts_left = row["restarts_left"]
        actor.worker, actor.endpoint, actor.pid, actor.lease = row["worker"], row["endpoint"], row["pid"], row["lease"]
        actor.cause = row["death_cause"]
        actor.last_worker = actor.worker
        self.recovery.adopted(actor, row)
        return actor

    def job_ended(self, job: int) -> None:
        for actor in [a for a in self.actors.values() if a.job == job and a.state != DEAD and not a.detached]:
            self._end(actor, {"kind": "job_over", "reason": JOB_OVER})

    def group_removed(self, group: bytes, reason: str) -> None:
        """The placement group is gone: end the actors in it, whatever restarts they have left."""
        for actor in [a for a in self.actors.values() if a.state != DEAD and _group_of(a) == group]:
            self._end(actor, {"kind": "pg_removed", "reason": reason, "placement_group": group},
                      Cause.GROUP_REMOVED.text)

    def unschedulable(self, actor_id: bytes, reason: str) -> None:
        """It waits for a place that it can never get."""
        actor = self.actors.get(actor_id)
        if actor is not None and actor.state in (PENDING, RESTARTING):
            self._end(actor, {"kind": "unschedulable", "reason": reason})

    def tick(self, now: float) -> None:
        for actor_id, (deadline, watchers) in list(self._unknown.items()):
            if deadline <= now:
                del self._unknown[actor_id]
                cause = {"kind": "unknown", "reason": "no such actor, or it ended long ago"}
                for peer in sorted(watchers):
                    self._emit(Send(peer, ActorState(actor_id, DEAD, 0, b"", "", cause)))
        for actor_id in list(self._leaving):
            actor = self.actors[actor_id]
            if actor.exit_deadline <= now:
                del self._leaving[actor_id]
                reason = actor.exiting or actor.recycle_reason
                self._ports.end_worker(actor, f"{reason}; its exit handlers took too long")

    def next_deadline(self) -> float | None:
        if not self._unknown and not self._leaving:
            return None
        deadlines = [deadline for deadline, _ in self._unknown.values()]
        deadlines += [self.actors[a].exit_deadline for a in self._leaving]
        return min(deadlines, default=None)

    def owns(self, peer: bytes) -> bool:
        """Whether live actors depend on this process."""
        return bool(self._owned.get(peer))

    def job_is_used(self, job: int) -> bool:
        """Whether an actor, which is then detached, still runs for this job, or will once its name is claimed."""
        return job in self._claims.values() or any(
            actor.job == job and actor.state != DEAD for actor in self.actors.values())

    def arguments(self) -> set[bytes]:
        """Stored objects that an actor's constructor needs when it restarts."""
        found: set[bytes] = set()
        for actor in self.actors.values():
            if actor.state != DEAD:
                for value in (actor.spec.get("args"), *actor.spec.get("deps", ())):
                    while type(value) is list and value and value[0] == CARRYING:
                        value = value[1]
                    if type(value) is list and value and value[0] == STORED:
                        found.add(value[4])
        return found

    # ------------------------------------------------------------ inside

    def _named(self, actor: Actor, holder: bytes, request: int, now: float) -> None:
        self._claims.pop(actor.id, None)
        if holder == actor.id:
            self._admit(actor)
            self._reply(actor.owner, request, actor)
            return
        self._ports.not_made(actor)
        existing = self.actors.get(holder)
        if actor.spec.get("get_if_exists"):
            if existing is not None and existing.state != DEAD:
                self._reply(actor.owner, request, existing)
                return
            if existing is None and holder:
                self._ports.find_actor(holder, lambda row: self._named_elsewhere(actor, holder, request, row))
                return
        self._name_taken(actor, holder, request)

    def _named_elsewhere(self, actor: Actor, holder: bytes, request: int, row: dict | None) -> None:
        if row is None or row["state"] == DEAD:
            self._name_taken(actor, holder, request)
        elif request:
            self._emit(Send(actor.owner, ActorReply(request, "", holder, row["meta"], row["owner"])))

    def _name_taken(self, actor: Actor, holder: bytes, request: int) -> None:
        detail = f"the name {actor.name!r} is taken in namespace {actor.namespace!r}"
        self._refuse(actor.owner, request, "name_taken", holder, detail)
        actor.state = DEAD
        actor.cause = {"kind": "name_taken", "reason": detail}
        self._keep_dead(actor)

    def _admit(self, actor: Actor) -> None:
        self.actors[actor.id] = actor
        if not actor.detached:
            self._owned.setdefault(actor.owner, set()).add(actor.id)
        _, early = self._unknown.pop(actor.id, (0.0, set()))
        for peer in sorted(early):
            self._add_watcher(actor, peer)
        self._changed(actor)
        if not actor.unready:
            self._ports.place(actor)

    def _may_restart(self, actor: Actor) -> bool:
        return actor.restarts_left != 0 and not actor.exiting

    def _restart(self, actor: Actor, cause: dict) -> None:
        actor.restarts_left -= actor.restarts_left > 0
        actor.life += 1
        actor.state = RESTARTING
        actor.worker = b""
        actor.endpoint = ""
        actor.lease = 0
        actor.cause = cause
        self._changed(actor)
        self._ports.place(actor)

    def _end(self, actor: Actor, cause: dict, why: str = "") -> None:
        """``why``: the reason for its process, if it is another one than that of the actor."""
        had_worker = actor.worker
        if actor.name:
            cause = {**cause, "name": actor.name, "namespace": actor.namespace}
        if actor.state == PENDING and cause["kind"] not in ("init", "died", "exited"):
            cause = {**cause, "never_ran": True}
        actor.state = DEAD
        actor.cause = cause
        self._leaving.pop(actor.id, None)
        self._changed(actor)
        if had_worker:
            # no effect when the worker's end is the cause
            self._ports.end_worker(actor, why or cause.get("reason", ""))
        else:
            self._ports.unplace(actor)
        if actor.name:
            self._ports.release_name(actor.namespace, actor.name, actor.id)
        self.recovery.ended(actor)
        owned = self._owned.get(actor.owner)
        if owned is not None:
            owned.discard(actor.id)
            if not owned:
                del self._owned[actor.owner]
        self._keep_dead(actor)

    def _keep_dead(self, actor: Actor) -> None:
        """Keep a short record of it: send watchers its state, drop arguments and the meta of handles."""
        self.actors[actor.id] = actor
        _, early = self._unknown.pop(actor.id, (0.0, set()))
        for peer in sorted(early):
            self._emit(Send(peer, actor.state_message()))
        for peer in actor.watchers:
            watched = self._watched.get(peer)
            if watched is not None:
                watched.discard(actor.id)
                if not watched:
                    del self._watched[peer]
        actor.watchers = set()
        kept = ("class_name", "name", "namespace", "job", "detached", "demand", "running", "meta", "strategy", "env",
                "unready")
        actor.spec = {key: actor.spec[key] for key in kept if key in actor.spec}
        self._dead[actor.id] = None
        while len(self._dead) > DEAD_KEPT_MAX:
            oldest = next(iter(self._dead))
            del self._dead[oldest]
            del self.actors[oldest]
            self._ports.erase(oldest)

    def _current(self, peer: bytes, actor_id: bytes, life: int) -> Actor | None:
        actor = self.actors.get(actor_id)
        if actor is None or actor.state == DEAD or actor.life != life or actor.worker != peer:
            return None
        return actor

    def _add_watcher(self, actor: Actor, peer: bytes) -> None:
        if actor.state != DEAD:
            actor.watchers.add(peer)
            self._watched.setdefault(peer, set()).add(actor.id)

    def _changed(self, actor: Actor) -> None:
        self._ports.record(actor)
        self._emit(Note("actor", {"actor": actor.id, "state": actor.state, "life": actor.life,
                                  "class_name": actor.spec.get("class_name", ""),
                                  "reason": actor.cause.get("reason", "")}))
        self._notify_watchers(actor)

    def _notify_watchers(self, actor: Actor) -> None:
        message = actor.state_message()
        for peer in sorted(actor.watchers):
            self._emit(Send(peer, message))

    def _reply(self, peer: bytes, request: int, actor: Actor) -> None:
        if request:
            self._emit(Send(peer, ActorReply(request, "", actor.id, actor.spec.get("meta", b""), actor.owner)))

    def _refuse(self, peer: bytes, request: int, error: str, actor: bytes, detail: str) -> None:
        if request:
            self._emit(Send(peer, ActorReply(request, error, actor, b"", b"", detail)))

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for actor in self.actors.values():
            dead = actor.state == DEAD
            assert dead == (actor.id in self._dead)
            assert actor.state != ALIVE or actor.worker
            assert not (dead and actor.watchers)
            assert actor.id not in self._unknown
            owned = actor.id in self._owned.get(actor.owner, ())
            assert owned == (not dead and not actor.detached)
            for peer in actor.watchers:
                assert actor.id in self._watched[peer]
        for peer, ids in self._watched.items():
            assert ids, "empty watch sets are dropped"
            assert all(peer in self.actors[actor_id].watchers for actor_id in ids)
        self.recovery.check()
        assert all(self.actors[a].exit_deadline for a in self._leaving)
        assert len(self._dead) <= DEAD_KEPT_MAX


def _group_of(actor: Actor) -> bytes | None:
    strategy = actor.spec.get("strategy")
    return strategy.get("group") if strategy and strategy.get("kind") == "group" else None
