"""The nodes of a run: one daemon on each machine, started again whenever it has ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any, TextIO

from fuzz.chaos.machines import Machines
from fuzz.chaos.processes import die_with_parent, named, send
from tests.e2e.scripts import environment
from zray.node.running import session as sessions
from zray.node.running.ask import NodeClient

CPUS = 2
STORE_BYTES = 128 << 20
START_S = 60.0
ASK_S = 3.0
WAIT_S = 0.5  # before a node is started again


class Node:
    """The place of a daemon on one machine; a new process takes it after the end of the one before."""

    def __init__(self, number: int, machines: Machines):
        self.number, self.machines = number, machines
        self.process: subprocess.Popen[str] | None = None
        self.session_dir = ""
        self.since = 0.0  # when its process was started
        self.lives = 0
        self._said: TextIO | None = None

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def name(self) -> str:
        return f"host{self.number}-{self.lives}"

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, join: str) -> None:
        """``join``: the directory of a node of the cluster; '' makes a cluster."""
        arguments = ["--address", f"@{join}/join"] if join else ["--head"]
        self.lives += 1
        self.since, self.session_dir = time.monotonic(), ""
        self._close()
        self._said = open(self.output(), "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*self.machines.within(self.number), sys.executable, "-c", "from zray.node.daemon import main; main()",
             *arguments, "--host", self.machines.address(self.number), "--num-cpus", str(CPUS),
             "--object-store-memory", str(STORE_BYTES), "--node-name", self.name],
            env=environment(ZRAY_TMPDIR=self.machines.tmp(self.number), PYTHONWARNINGS="default"), text=True,
            stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)

    def output(self) -> str:
        return os.path.join(self.machines.tmp(self.number), f"node-{self.lives}.txt")

    def said(self) -> str:
        """What the daemon has printed."""
        with open(self.output(), errors="replace") as file:
            return file.read()

    def serves(self) -> bool:
        """It has printed that it serves, and has not since been declared dead."""
        if not self.session_dir and self.runs():
            found = re.search(r"runs in (\S+)", self.said())
            self.session_dir = found.group(1) if found else ""
        if not self.session_dir or not self.runs():
            return False
        found = sessions.read(self.session_dir)
        return found is not None and not found.rejoins and bool(found.join)

    def node_id(self) -> str:
        found = sessions.read(self.session_dir) if self.session_dir else None
        return found.node_id if found is not None else ""

    def workers(self) -> list[int]:
        return named(self.pid, "zray-worker") if self.runs() else []

    def ask(self, what: str, **args: Any) -> dict[str, Any]:
        """The node's answer; {} when it gives none."""
        try:
            asker = NodeClient(self.session_dir)
        except (OSError, ValueError):
            return {}
        try:
            return asker.ask(what, ASK_S, **args)
        except (RuntimeError, OSError):
            return {}
        finally:
            asker.close()

    def end(self) -> None:
        if self.process is not None:
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self._said is not None:
            self._said.close()
            self._said = None


class Nodes:
    """All of them."""

    def __init__(self, machines: Machines):
        self.machines = machines
        self.all = [Node(number, machines) for number in range(machines.count)]
        self.may_start_at = [0.0] * machines.count

    def begin(self) -> None:
        """Start a cluster; RuntimeError with the daemon's words when it does not come about."""
        first, *others = self.all
        first.start("")
        self._await([first])
        for node in others:
            node.start(first.session_dir)
        self._await(others)

    def _await(self, nodes: list[Node]) -> None:
        end = time.monotonic() + START_S
        while not all(node.serves() for node in nodes):
            for node in nodes:
                if not node.runs() or time.monotonic() > end:
                    raise RuntimeError(f"the node on host {node.number} does not serve: {node.said()}")
            time.sleep(0.05)

    def serving(self) -> list[Node]:
        return [node for node in self.all if node.serves()]

    def settled(self) -> bool:
        """All nodes serve, and know each other as alive."""
        if not all(node.serves() for node in self.all):
            return False
        wanted = {node.node_id() for node in self.all}
        return all({row["NodeID"] for row in node.ask("nodes").get("nodes", []) if row["Alive"]} == wanted
                   for node in self.all)

    def mend(self, now: float) -> str:
        """Start the daemons that have ended; what is wrong if one cannot be started."""
        for node in self.all:
            if node.runs():
                if not node.serves() and now - node.since > START_S and not node.session_dir:
                    return f"the node on host {node.number} was started {START_S:g} s ago and does not serve"
                continue
            if not self.may_start_at[node.number]:
                self.may_start_at[node.number] = now + WAIT_S
            elif now >= self.may_start_at[node.number]:
                others = self.serving()
                if others:
                    self.may_start_at[node.number] = 0.0
                    node.start(others[node.lives % len(others)].session_dir)
        return ""

    def end(self, patience_s: float = 30.0) -> list[str]:
        """SIGTERM to all; the daemons that did not end by themselves."""
        for node in self.all:
            if node.runs():
                send(node.pid, signal.SIGCONT)
                send(node.pid, signal.SIGTERM)
        end = time.monotonic() + patience_s
        while any(node.runs() for node in self.all) and time.monotonic() < end:
            time.sleep(0.05)
        late = [f"daemon of host {node.number} (pid {node.pid})" for node in self.all if node.runs()]
        for node in self.all:
            if node.runs():
                send(node.pid, signal.SIGKILL)
            node.end()
        return late
