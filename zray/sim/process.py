"""A simulated process: it lives, may be stopped for a while (SIGSTOP, a frozen machine), and ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.base.ids import node_of
from zray.sim.mesh import SimMesh, Wire

TURN_S_MAX = 0.0003  # events that come this close together are one turn


class Process:
    """The base of all simulated processes: a mesh, turns, timers that end and stop with the process."""

    def __init__(self, wire: Wire, incarnation: bytes) -> None:
        self.net = wire.net
        self.wire = wire
        self.incarnation = incarnation
        self.home = node_of(incarnation)  # incarnation of its node
        self.alive = True
        self.paused = False
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._turn_due = False
        self._mesh_at: float | None = None
        self.mesh = SimMesh(wire, incarnation, 0, self.on_message, self.stir, self.run)

    def on_message(self, peer: bytes, code: int, message: Any) -> None:
        raise NotImplementedError

    def turn(self) -> None:
        """The turn after events, once for all that came close together."""
        raise NotImplementedError

    # ------------------------------------------------------------ time

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Run an action at that time if the process lives then; later, if it is stopped then."""
        self.net.call_at(when, self.run, action, *args)

    def later(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        self.net.call_at(self.net.now + seconds, self.run, action, *args)

    def run(self, action: Callable[..., None], *args: Any) -> None:
        """Run an event of this process now."""
        if self.paused:
            self._deferred.append((action, args))
        elif self.alive:
            action(*args)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Continue: run all events that came meanwhile, in order."""
        self.paused = False
        deferred, self._deferred = self._deferred, []
        for action, args in deferred:
            self.at(self.net.now, action, *args)

    def stir(self) -> None:
        """After an event: schedule a turn."""
        if not self._turn_due and self.alive:
            self._turn_due = True
            net = self.net
            net.call_at(net.now + net.random.random() * TURN_S_MAX, self.run, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        self.mesh.report_closed()
        self.turn()
        if not self.alive:
            return
        self.mesh.flush()
        due = self.mesh.deadline()
        if due is not None and (self._mesh_at is None or due < self._mesh_at):
            self._mesh_at = due
            self.at(due, self._tick_mesh, due)

    def _tick_mesh(self, when: float) -> None:
        if self._mesh_at == when:
            self._mesh_at = None
            self.mesh.tick(self.net.now)
            self.stir()
