"""What the next life of an actor with checkpoints needs: its last checkpoint, and its callers that live.  Pure.

    CallerSeen       the caller is registered, and the actor answers it
    SaveCheckpoint   the next life begins with this checkpoint; older files are removed
    a caller ends    the actor covers its calls by a checkpoint, or no longer waits for its offer

ActorTable has the actors and decides about their lives; this file has the two fields of an Actor.  A caller or a
checkpoint counts once it is in the row of the control store, if another node may adopt the actor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from zray.base.ids import node_of
from zray.node.effects import Send
from zray.wire.messages import ActorInit, CallerNews, CallerSeen, CheckpointSaved, SaveCheckpoint
from zray.wire.messages.actors import DEAD

if TYPE_CHECKING:
    from zray.node.actors.table import Actor


class RecoveryPorts(Protocol):
    """Ports of the recovery."""

    def record(self, actor: Actor, then: Callable[[], None] | None = None) -> None:
        """Write the actor's row of the control store; ``then()`` when it is stored."""

    def has_ended(self, process: bytes) -> bool:
        """Whether that process is known to have ended."""

    def drop_checkpoints(self, actor: bytes, nodes: set[bytes], keep: str, only: str = "") -> None:
        """Remove its checkpoints before ``keep`` on these nodes; all without it.  With ``only``, that file alone."""


class ActorRecovery:
    """See the module's docstring."""

    def __init__(self, ports: RecoveryPorts, emit: Callable[[Any], None]):
        self._ports = ports
        self._emit = emit
        self._called: dict[bytes, dict[bytes, Actor]] = {}  # caller -> the actors that it has called

    @property
    def callers(self) -> Iterable[bytes]:
        return self._called

    def init(self, actor: Actor, assigned: dict) -> ActorInit:
        """The message that begins a life; a later one gets the checkpoint and the callers."""
        if not actor.has_checkpoints:
            return ActorInit(actor.id, actor.life, actor.spec, assigned)
        actor.checkpoint_nodes.add(node_of(actor.worker))
        for caller in [caller for caller in actor.callers if self._ports.has_ended(caller)]:
            self._forget(actor, caller)
        if not actor.life:
            return ActorInit(actor.id, 0, actor.spec, assigned)
        recovery = {"checkpoint": actor.checkpoint, "callers": sorted(actor.callers)}
        return ActorInit(actor.id, actor.life, {**actor.spec, "recovery": recovery}, assigned)

    def caller_seen(self, actor: Actor, message: CallerSeen) -> None:
        worker, caller = actor.worker, message.caller
        news = CallerNews(actor.id, actor.life, caller, self._ports.has_ended(caller))
        if news.ended:
            self._emit(Send(worker, news))
            return
        self._add(actor, caller)
        self._stored(actor, lambda: self._emit(Send(worker, news)))

    def caller_ended(self, process: bytes) -> None:
        for actor in list(self._called.get(process, {}).values()):
            self._forget(actor, process)
            if actor.worker:
                self._emit(Send(actor.worker, CallerNews(actor.id, actor.life, process, True)))

    def checkpointed(self, actor: Actor, message: SaveCheckpoint) -> None:
        """The present life has a new checkpoint, or says so again."""
        worker, place, former = actor.worker, message.place, actor.checkpoint
        holders = set(place.get("holders", ()))
        if former is not None and former.get("file") == place.get("file"):
            holders |= set(former.get("holders", ()))  # announced again, it may have been copied to another node
        actor.checkpoint = {**place, "start": message.start, **({"holders": sorted(holders)} if holders else {})}
        actor.checkpoint_nodes |= holders

        def stored() -> None:
            self._emit(Send(worker, CheckpointSaved(message.actor, message.life, message.start)))
            last = actor.checkpoint
            if former != last and last is not None and actor.state != DEAD:
                self._ports.drop_checkpoints(actor.id, actor.checkpoint_nodes, last.get("file", ""))
                actor.checkpoint_nodes = {*last.get("holders", ()), node_of(actor.last_worker)}

        self._stored(actor, stored)

    def checkpointed_late(self, actor: Actor | None, message: SaveCheckpoint) -> None:
        """A life that has ended has a checkpoint which no life begins with."""
        last = actor.checkpoint if actor is not None and actor.state != DEAD else None
        file = message.place.get("file")
        if file and (last is None or file != last.get("file")):
            self._ports.drop_checkpoints(message.actor, set(message.place.get("holders", ())), "", file)

    def _stored(self, actor: Actor, then: Callable[[], None]) -> None:
        """Go on once another node that adopts the actor would know what has changed."""
        if actor.detached:
            self._ports.record(actor, then)
        else:
            then()  # the actor ends with this node

    def adopted(self, actor: Actor, row: dict) -> None:
        """This node is the home now."""
        actor.checkpoint = row.get("checkpoint")
        actor.checkpoint_nodes = set(row.get("checkpoint_nodes", ()))
        for caller in row.get("callers", ()):
            self._add(actor, caller)
            if self._ports.has_ended(caller):
                self.caller_ended(caller)

    def ended(self, actor: Actor) -> None:
        """The actor is DEAD."""
        if actor.has_checkpoints:
            self._ports.drop_checkpoints(actor.id, actor.checkpoint_nodes, "")
            for caller in list(actor.callers):
                self._forget(actor, caller)

    def _add(self, actor: Actor, caller: bytes) -> None:
        actor.callers.add(caller)
        self._called.setdefault(caller, {})[actor.id] = actor

    def _forget(self, actor: Actor, caller: bytes) -> None:
        actor.callers.discard(caller)
        called = self._called.get(caller)
        if called is not None:
            called.pop(actor.id, None)
            if not called:
                del self._called[caller]

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for caller, actors in self._called.items():
            assert actors and all(caller in actor.callers and actor.state != DEAD for actor in actors.values())
