"""The drivers of a run, each with its workload: their events are read, and the dead ones are started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from fuzz.chaos.cluster import Node
from fuzz.chaos.processes import die_with_parent, send
from fuzz.chaos.workloads import WORKLOADS
from tests.e2e.scripts import environment


@dataclass(slots=True)
class Tally:
    """What a workload has done, over all lives of its driver."""

    rounds: int = 0
    steps: int = 0
    lives: int = 0
    excused: dict[str, int] = field(default_factory=dict)
    longest_s: float = 0.0  # without progress
    errors: list[tuple[str, float, str]] = field(default_factory=list)


class Driver:
    """One workload."""

    def __init__(self, name: str, seed: int, scale: float, directory: str):
        self.name, self.seed, self.scale, self.directory = name, seed, scale, directory
        self.tally = Tally()
        self.process: subprocess.Popen[bytes] | None = None
        self.node: Node | None = None
        self.moved = time.monotonic()  # the last progress
        self.owners: list[tuple[int, float]] = []  # processes that own objects, and when they said so
        self._events: BinaryIO | None = None
        self._rest = b""

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, node: Node) -> None:
        self.node = node
        self.tally.lives += 1
        self._close()
        events = f"{self.path()}.events"
        with open(events, "wb") as out, open(f"{self.path()}.txt", "ab") as errors:
            self.process = subprocess.Popen(
                [*node.machines.within(node.number), sys.executable, "-m", "fuzz.chaos.work", self.name, "--address",
                 node.session_dir, "--seed", str(1000 * self.seed + self.tally.lives), "--scale", str(self.scale)],
                env=environment(ZRAY_TMPDIR=node.machines.tmp(node.number), PYTHONWARNINGS="default"),
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors, preexec_fn=die_with_parent)
        self._events, self._rest = open(events, "rb"), b""

    def path(self) -> str:
        return f"{self.directory}/driver-{self.name}-{self.tally.lives}"

    def events(self) -> list[dict[str, Any]]:
        """New ones; a line that a kill cut off is dropped."""
        if self._events is None:
            return []
        *lines, self._rest = (self._rest + self._events.read()).split(b"\n")
        return [json.loads(line) for line in lines]

    def note(self, event: dict[str, Any]) -> None:
        """Progress."""
        at = event["at"]
        if event["what"] in ("round", "step"):
            self.tally.longest_s = max(self.tally.longest_s, at - self.moved)
            self.moved = max(self.moved, at)
            self.tally.rounds += event["what"] == "round"
            self.tally.steps += event["what"] == "step"
            if "owner" in event:
                self.owners = [*self.owners[-7:], (event["owner"], at)]

    @property
    def allowed(self) -> Any:
        return WORKLOADS[self.name].allowed()

    def end(self, patience_s: float = 20.0) -> str:
        """SIGTERM; what is wrong if it does not end by itself."""
        late = ""
        if self.process is not None and self.runs():
            send(self.pid, signal.SIGCONT)
            send(self.pid, signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                send(self.pid, signal.SIGUSR2)
                time.sleep(0.5)
                late = f"driver {self.name} (pid {self.pid}) did not end within {patience_s:g} s of SIGTERM"
                self.process.kill()
                self.process.wait()
        self._close()
        return late

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
