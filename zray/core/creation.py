"""Actors that this process creates: when to ask the node, and which objects their creation keeps alive.  Pure.

    arguments pending       the creation waits, like a task.  CreateActor with ``unready`` goes to the node: who has a
                            handle finds the actor, for a node that does not know an actor calls it dead
    an argument failed      the actor is DEAD here; CreateActor with ``failed`` tells the node
    all arguments ready     CreateActor goes to the node.  For a named actor it went before: names are claimed at once.
                            Detached actors are unknown until then: a home that adopts them could not make them
    CreateActor sent        WatchActor follows
    DEAD                    the pins of the creation are released
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base import ids
from zray.base.argument_errors import argument_failed
from zray.owner.calls import ActorCalls
from zray.owner.failures import first_failure
from zray.owner.records import Entry
from zray.owner.references import References
from zray.wire import messages as m

ARGUMENT_FAILED = "an argument of its constructor failed"
FAILED_ACTORS_MAX = 1000  # actors that never began, for listings
_WITH_ARGUMENTS = frozenset(("args", "deps", "dep_owners", "slots"))
OUT_OF_SCOPE = "all handles to it went out of scope"


class Creations:
    """The actors that one process has created."""

    def __init__(self, node: bytes, refs: References, calls: ActorCalls, send: Callable[[bytes, Any], None]):
        self._node = node
        self._refs = refs
        self._calls = calls
        self._send = send
        self._waiting: dict[bytes, dict[str, Any]] = {}  # actor -> its spec, until the node has it
        self._known: set[bytes] = set()  # those among them that the node has as unready
        self._failed: dict[bytes, dict[str, Any]] = {}  # actors whose arguments failed, oldest first
        self._pins: dict[bytes, list[Any]] = {}  # actor -> records that its creation pins

    def create(self, tid: bytes, actor: bytes, spec: dict[str, Any], deps: list[Any], pins: list[Any] | None
               ) -> Entry | None:
        """The object whose references keep the actor alive; None for a detached one."""
        link = self._calls.link_for(actor, spec["class_name"], spec["out_of_order"], watch=bool(spec["name"]))
        link.any_order = spec["out_of_order"]
        link.created = link.watched = True
        life: Entry | None = None
        if not spec["detached"]:
            life = link.life_record = self._refs.own(ids.return_id(tid, 1))
            self._refs.finalizers[life.oid] = lambda: self._send(
                self._node, m.KillActor(actor, True, True, OUT_OF_SCOPE))
        if pins:
            for record in pins:
                record.refs += 1
            self._pins[actor] = pins
        if not spec["name"]:
            self._waiting[actor] = spec
            _Creation(self, actor, spec, deps).start()
            if actor in self._waiting and not spec["detached"]:
                self._tell(actor, {**{key: spec[key] for key in spec if key not in _WITH_ARGUMENTS}, "unready": True})
        return life

    def _tell(self, actor: bytes, spec: dict[str, Any]) -> None:
        """The node gets the actor, as it is now."""
        self._send(self._node, m.CreateActor(actor, spec, 0))
        if actor not in self._known:
            self._known.add(actor)
            self._send(self._node, m.WatchActor(actor))

    def ready(self, actor: bytes, spec: dict[str, Any], deps: list[Any]) -> None:
        """The arguments of the actor's constructor are ready, or have failed."""
        self._waiting.pop(actor, None)
        failed = first_failure(deps)
        if failed is not None:
            self._failed[actor] = spec
            if len(self._failed) > FAILED_ACTORS_MAX:
                del self._failed[next(iter(self._failed))]
            cause = {"kind": "creation", "reason": ARGUMENT_FAILED,
                     "argument": argument_failed(f"{spec['class_name']}.__init__", failed, actor)}
            self._calls.on_actor_state(self._node, m.ActorState(actor, "DEAD", 0, b"", "", cause))
            if actor in self._known:
                self._tell(actor, {"failed": cause})
            self._known.discard(actor)
            return
        for dep in deps:
            dep.escaped = True
        spec["deps"] = [dep.value for dep in deps]
        self._tell(actor, spec)
        self._known.discard(actor)

    def wait(self, record: Any, waiter: Callable[[Any], None]) -> bool:
        return self._refs.when_ready(record, waiter)

    def ended(self, actor: bytes) -> list[Any] | None:
        """The actor is DEAD.  Returns its failure if the constructor raised, and only once."""
        pins = self._pins.pop(actor, None)
        if pins:
            self._refs.unpin_all(pins)
        link = self._calls.links.get(actor)
        if link is None or not link.created or link.cause.get("kind") != "init":
            return None
        link.created = False
        return self._calls.death_of(link)

    def rows(self) -> list[dict[str, Any]]:
        """Actors that the node does not know, as rows of the state API (zray.owner.attempt_rows)."""
        return [_row(actor, spec, "DEPENDENCIES_UNREADY", {}) for actor, spec in self._waiting.items()] + [
            _row(actor, spec, "DEAD", {"kind": "creation", "reason": ARGUMENT_FAILED})
            for actor, spec in self._failed.items()]

    def is_empty(self) -> bool:
        return not self._pins


class _Creation:
    """The waiter of an actor whose arguments are not ready."""

    __slots__ = ("creations", "actor", "spec", "deps", "missing")

    def __init__(self, creations: Creations, actor: bytes, spec: dict[str, Any], deps: list[Any]):
        self.creations = creations
        self.actor = actor
        self.spec = spec
        self.deps = deps
        self.missing = 1

    def start(self) -> None:
        for record in self.deps:
            if not self.creations.wait(record, self):
                self.missing += 1
        self(None)

    def __call__(self, record: Any) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.creations.ready(self.actor, self.spec, self.deps)


def _row(actor: bytes, spec: dict[str, Any], state: str, cause: dict[str, Any]) -> dict[str, Any]:
    strategy = spec["strategy"]
    return {"creation": True, "actor": actor, "state": state, "class_name": spec["class_name"], "name": spec["name"],
            "ray_namespace": spec["namespace"], "is_detached": spec["detached"], "resources": spec["demand"],
            "labels": strategy.get("labels") or {}, "env": spec["env"], "death_cause": cause,
            "group": strategy.get("group", b"") if strategy.get("kind") == "group" else b""}
