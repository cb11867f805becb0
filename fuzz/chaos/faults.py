"""What is done to the run: each kind of fault with what it needs, what it does, and how it is undone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuzz.chaos.cluster import Node, Nodes
from fuzz.chaos.drivers import Driver
from fuzz.chaos.machines import Ballast
from fuzz.chaos.processes import die_with_parent, send
from fuzz.chaos.schedule import Fault
from fuzz.chaos.verdict import Happened

SPINNERS = 2 * (os.cpu_count() or 1)  # busy loops, at the priority of the daemons' workers
OWNER_S = 30.0  # an owner that said so longer ago has probably ended
SETTLE_S = 60.0  # a cluster whose nodes all run again is whole after this long


class NotNow(Exception):
    """The fault needs something that is not there; the text says what."""


@dataclass(slots=True)
class Open:
    """A fault that is still there: at ``until`` it is undone."""

    kind: str
    since: float
    until: float
    undo: Callable[[], None]
    index: int  # in Happened


class Faults:
    """Performs the faults, one at a time, and undoes them.  At most one fault of a node is open."""

    def __init__(self, nodes: Nodes, drivers: list[Driver], happened: Happened, say: Callable[[str], None]):
        self.nodes, self.drivers, self.happened, self.say = nodes, drivers, happened, say
        self.done: Counter[str] = Counter()
        self.put_off: Counter[str] = Counter()
        self.open: list[Open] = []
        self.unsettled_since = 0.0
        self._looked = 0.0
        self._kinds: dict[str, Callable[[Fault], tuple[str, Callable[[], None] | None]]] = {
            "kill worker": self._kill_worker, "kill zygote": self._kill_zygote, "kill node": self._kill_node,
            "kill replica": self._kill_replica, "kill owner": self._kill_owner, "kill driver": self._kill_driver,
            "stop worker": self._stop_worker, "stop node": self._stop_node, "stop node briefly": self._stop_node,
            "stop driver": self._stop_driver, "cut": self._cut, "cut briefly": self._cut, "leave": self._leave,
            "starve of cpu": self._starve_of_cpu, "starve of shm": self._starve_of_shm,
            "starve of disk": self._starve_of_disk}

    def happen(self, fault: Fault) -> None:
        """Perform it, or a kill of a worker in its place when it is a kill that needs what is not there."""
        try:
            self._perform(fault.kind, fault)
        except NotNow as reason:
            self.put_off[fault.kind] += 1
            self.say(f"no {fault.kind}: {reason}")
            if fault.kind.startswith("kill") and fault.kind != "kill worker":
                self.happen(Fault(fault.at_s, "kill worker", fault.host, fault.pick, 0.0))

    def _perform(self, kind: str, fault: Fault) -> None:
        now = time.monotonic()
        what, undo = self._kinds[kind](fault)
        self.done[kind] += 1
        self.happened.faults.append((kind, now, now + fault.lasts_s))
        if undo is not None:
            self.open.append(Open(kind, now, now + fault.lasts_s, undo, len(self.happened.faults) - 1))
        self.say(f"{kind}: {what}" + (f", for {fault.lasts_s:.1f} s" if fault.lasts_s else ""))

    def tick(self, now: float, everything: bool = False) -> str:
        """Undo what is due; what is wrong with the cluster, '' for nothing."""
        for one in [one for one in self.open if everything or one.until <= now]:
            one.undo()
            self.open.remove(one)
            kind, start, _ = self.happened.faults[one.index]
            self.happened.faults[one.index] = (kind, start, time.monotonic())
        if self.unsettled_since and not self._of_nodes() and now - self._looked > 1.0:
            self._looked = now
            if self.nodes.settled():
                self.unsettled_since = 0.0
            elif now - max([self.unsettled_since, *(end for kind, _, end in self.happened.faults
                                                    if kind in NODE_FAULTS)]) > SETTLE_S:
                return f"the nodes do not know each other {SETTLE_S:g} s after the last fault"
        return ""

    def _of_nodes(self) -> list[str]:
        return [one.kind for one in self.open if one.kind in NODE_FAULTS]

    # ---------------------------------------------------------------- who

    def _node(self, fault: Fault) -> Node:
        """The node of that host, when the cluster is whole."""
        if self._of_nodes():
            raise NotNow(f"{', '.join(self._of_nodes())} is not over")
        if self.unsettled_since or not all(node.serves() for node in self.nodes.all):
            raise NotNow("the cluster is not whole again")
        self.unsettled_since = time.monotonic()
        return self.nodes.all[fault.host]

    def _worker(self, fault: Fault) -> tuple[Node, int]:
        """A worker of the cluster, of that host first."""
        for turn in range(len(self.nodes.all)):
            node = self.nodes.all[(fault.host + turn) % len(self.nodes.all)]
            if workers := node.workers():
                return node, workers[int(fault.pick * len(workers))]
        raise NotNow("there is no worker")

    def _driver(self, fault: Fault) -> Driver:
        running = [driver for driver in self.drivers if driver.runs()]
        if not running:
            raise NotNow("no driver runs")
        return running[int(fault.pick * len(running))]

    # ---------------------------------------------------------------- kinds

    def _kill_worker(self, fault: Fault) -> Any:
        node, pid = self._worker(fault)
        send(pid, signal.SIGKILL)
        return f"{pid} of host {node.number}", None

    def _kill_zygote(self, fault: Fault) -> Any:
        from fuzz.chaos.processes import named

        node = self.nodes.all[fault.host]
        found = named(node.pid, "zray-zygote") if node.runs() else []
        if not found:
            raise NotNow("the host has no zygote")
        send(found[-1], signal.SIGKILL)
        return f"{found[-1]} of host {node.number}", None

    def _kill_node(self, fault: Fault) -> Any:
        return self._kill(self._node(fault))

    def _kill(self, node: Node) -> Any:
        send(node.pid, signal.SIGKILL)
        return f"{node.pid} of host {node.number}", None

    def _kill_replica(self, fault: Fault) -> Any:
        """A node that holds a part of the control store, at any place of its chain."""
        self._node(fault)
        chains = self.nodes.all[fault.host].ask("gcs").get("chains") or []
        members = [member for chain in chains for member in chain["members"]]
        replicas = [node for member in members for node in self.nodes.all if node.node_id().startswith(member)]
        if not replicas:
            self.unsettled_since = 0.0
            raise NotNow("the host knows no replica")
        return self._kill(replicas[int(fault.pick * len(replicas))])

    def _kill_owner(self, fault: Fault) -> Any:
        """A process that has just said that it owns objects of others."""
        recent = time.monotonic() - OWNER_S
        owners = [(pid, driver) for driver in self.drivers for pid, at in driver.owners if at > recent]
        while owners:
            pid, driver = owners.pop(int(fault.pick * len(owners)))
            driver.owners = [entry for entry in driver.owners if entry[0] != pid]
            if send(pid, signal.SIGKILL):
                return f"{pid} of {driver.name}", None
        raise NotNow("no owner is known")

    def _kill_driver(self, fault: Fault) -> Any:
        driver = self._driver(fault)
        send(driver.pid, signal.SIGKILL)
        return f"{driver.pid}, {driver.name}", None

    def _stop_worker(self, fault: Fault) -> Any:
        node, pid = self._worker(fault)
        return f"{pid} of host {node.number}", self._stop(pid)

    def _stop_node(self, fault: Fault) -> Any:
        node = self._node(fault)
        return f"{node.pid} of host {node.number}", self._stop(node.pid)

    def _stop_driver(self, fault: Fault) -> Any:
        driver = self._driver(fault)
        return f"{driver.pid}, {driver.name}", self._stop(driver.pid)

    def _stop(self, pid: int) -> Callable[[], None]:
        send(pid, signal.SIGSTOP)
        return lambda: void(send(pid, signal.SIGCONT))

    def _cut(self, fault: Fault) -> Any:
        node = self._node(fault)
        self.nodes.machines.pull(node.number)
        return f"host {node.number}", lambda: self.nodes.machines.plug(node.number)

    def _leave(self, fault: Fault) -> Any:
        node = self._node(fault)
        send(node.pid, signal.SIGTERM)
        return f"host {node.number}", None

    def _starve_of_cpu(self, fault: Fault) -> Any:
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=die_with_parent)
                 for _ in range(SPINNERS)]

        def undo() -> None:
            for loop in loops:
                loop.kill()
                loop.wait()

        return f"{SPINNERS} busy loops", undo

    def _starve_of_shm(self, fault: Fault) -> Any:
        return self._fill(self.nodes.machines.shm(fault.host), "shm", fault)

    def _starve_of_disk(self, fault: Fault) -> Any:
        return self._fill(self.nodes.machines.tmp(fault.host), "disk", fault)

    def _fill(self, directory: str, what: str, fault: Fault) -> Any:
        kind = f"starve of {what}"
        if any(one.kind == kind for one in self.open):
            raise NotNow(f"one {kind} is not over")
        ballast = Ballast(directory)
        return f"{ballast.bytes >> 20} MB on host {fault.host}", ballast.remove


NODE_FAULTS = frozenset(("kill node", "kill replica", "stop node", "stop node briefly", "cut", "cut briefly", "leave"))


def void(_: Any) -> None:
    pass
