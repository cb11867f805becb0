"""One run: drivers work on a cluster, faults happen as planned, then all heals and every workload must go on."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fuzz.chaos import schedule
from fuzz.chaos.cluster import Node, Nodes
from fuzz.chaos.drivers import Driver
from fuzz.chaos.faults import Faults
from fuzz.chaos.machines import Apart, Here
from fuzz.chaos.processes import die_with_parent, reap, running, send
from fuzz.chaos.verdict import Happened, is_excused
from tests.e2e.leaks import only_logs

TICK_S = 0.05
DISK_MB = 256  # of each machine
STALL_S = 60.0  # without progress of a workload
INVESTIGATE_S = 40.0
QUESTIONS = ("status", "list leases", "stack", "list actors", "list workers", "list placement-groups")
ENDS_S = 15.0  # processes, memory and files are gone after this


class Failure(Exception):
    """The run has found a fault of zray, or of itself."""


@dataclass(slots=True)
class Options:
    seed: int
    seconds: float
    every_s: float = 5.0
    hosts: int = 6
    scale: float = 0.1
    workloads: tuple[str, ...] = ()
    kinds: tuple[str, ...] = schedule.ALL_KINDS
    each: bool = False  # one fault of each kind
    keep: str = ""  # the directory for logs of a run that failed


class Run:
    def __init__(self, options: Options, machines: Apart | Here):
        self.options, self.machines = options, machines
        self.nodes = Nodes(machines)
        self.logs = options.keep
        os.makedirs(self.logs, exist_ok=True)
        self.drivers = [Driver(name, options.seed, options.scale, self.logs) for name in options.workloads]
        self.happened = Happened()
        self.faults = Faults(self.nodes, self.drivers, self.happened, self.say)
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", flush=True)

    def perform(self) -> None:
        """Failure for whatever the failure model does not allow."""
        options = self.options
        kinds = [kind for kind in options.kinds if kind not in self.machines.without]
        faults = schedule.each(options.seed, options.every_s, options.hosts, kinds) if options.each else \
            schedule.plan(options.seed, options.seconds, options.every_s, options.hosts, kinds)
        self.nodes.begin()
        self.say(f"{options.hosts} nodes serve, {len(faults)} faults are planned")
        self.started = time.monotonic()
        for fault in faults:
            while time.monotonic() - self.started < fault.at_s:
                self.tick()
            self.faults.happen(fault)
        while time.monotonic() - self.started < options.seconds:
            self.tick()
        self.heal()

    def heal(self) -> None:
        """No more faults: the cluster becomes whole, and every workload ends a round that began now."""
        self.faults.tick(time.monotonic(), everything=True)
        self.faults.unsettled_since = healed = time.monotonic()
        self.say("all is healed")
        rounds = {driver.name: driver.tally.rounds for driver in self.drivers}
        while self.faults.unsettled_since or any(
                driver.tally.rounds < rounds[driver.name] + 2 for driver in self.drivers):
            if time.monotonic() - healed > 3 * STALL_S:
                raise Failure(f"{3 * STALL_S:g} s after the healing not all workloads have ended two rounds")
            self.tick()

    def tick(self) -> None:
        time.sleep(TICK_S)
        now = time.monotonic()
        reap({node.pid for node in self.nodes.all} | {driver.pid for driver in self.drivers})
        for wrong in (self.faults.tick(now), self.nodes.mend(now)):
            if wrong:
                raise Failure(wrong)
        for driver in self.drivers:
            for event in driver.events():
                self._judge(driver, event)
            self._restart(driver)
            if now - driver.moved > STALL_S:
                raise Failure(f"{driver.name} has made no progress for {STALL_S:g} s")

    def _judge(self, driver: Driver, event: dict[str, Any]) -> None:
        driver.note(event)
        what = event["what"]
        if what == "waits":
            self.say(f"{driver.name} waits: {event['text']}")
        if what == "failure":
            raise Failure(f"{driver.name}: {event['error']}: {event['text']}")
        if what in ("error", "lost"):
            happened = self.happened.during(event["began"], event["at"])
            if not is_excused(event["error"], event["text"], driver.allowed, happened):
                raise Failure(f"{driver.name}: {event['error']} is not allowed after "
                              f"{', '.join(sorted(happened)) or 'no fault'}: {event['text']}")
            driver.tally.excused[event["error"]] = driver.tally.excused.get(event["error"], 0) + 1

    def _restart(self, driver: Driver) -> None:
        """A driver that was killed, or lost its node, is started on a node that serves."""
        if driver.runs():
            return
        for event in driver.events():  # its last words
            self._judge(driver, event)
        code = driver.process.returncode if driver.process is not None else 0
        if code not in (0, -signal.SIGKILL):
            raise Failure(f"{driver.name} has ended with {code}: see {driver.path()}.txt")
        serving = self.nodes.serving()
        if serving:
            number = self.drivers.index(driver) + driver.tally.lives
            driver.start(serving[number % len(serving)])

    # ---------------------------------------------------------------- the end

    def end(self) -> list[str]:
        """End everything; what is left of it."""
        self.faults.tick(time.monotonic(), everything=True)
        left = [late for driver in self.drivers if (late := driver.end())]
        left += self.nodes.end()
        end = time.monotonic() + ENDS_S
        while (rest := self._rest()) and time.monotonic() < end:
            reap(set())
            time.sleep(0.1)
        return left + rest

    def _rest(self) -> list[str]:
        hosts = range(self.machines.count) if isinstance(self.machines, Apart) else range(1)
        segments = [path for number in hosts for path in glob.glob(f"{self.machines.shm(number)}/zray-*")
                    ] if isinstance(self.machines, Apart) else []
        sessions = [path for number in range(self.machines.count)
                    for path in glob.glob(f"{self.machines.tmp(number)}/zray-*/*")
                    if os.path.isdir(path) and not os.path.islink(path) and not only_logs(path)]
        return [*running(), *(f"shared memory {path}" for path in segments),
                *(f"session {path}: {sorted(os.listdir(path))}" for path in sessions)]

    def investigate(self) -> None:
        """Where everything waits, and the logs of all nodes, into the directory of the run."""
        for driver in self.drivers:
            if driver.runs():
                send(driver.pid, signal.SIGUSR2)
        asked = [self._ask(node, command) for command in QUESTIONS for node in self.nodes.serving()]
        end = time.monotonic() + INVESTIGATE_S
        for process in asked:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for number in range(self.machines.count):
            with contextlib.suppress(shutil.Error):  # of files that have gone meanwhile
                shutil.copytree(self.machines.tmp(number), os.path.join(self.logs, f"host{number}"),
                                dirs_exist_ok=True, ignore=_not_logs, ignore_dangling_symlinks=True)

    def _ask(self, node: Node, command: str) -> subprocess.Popen[bytes]:
        program = "import sys; from zray.cli import main; sys.exit(main())"
        with open(os.path.join(self.logs, f"host{node.number}-{command.replace(' ', '-')}.txt"), "wb") as out:
            return subprocess.Popen([*self.machines.within(node.number), sys.executable, "-c", program,
                                     *command.split(), "--address", node.session_dir], stdout=out,
                                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)

    def report(self, left: Iterable[str]) -> str:
        lines = ["faults:"]
        lines += [f"  {kind:18} {count:4}" for kind, count in sorted(self.faults.done.items())]
        lines.append(f"  together           {self.faults.done.total():4}, {self.faults.put_off.total()} were put off "
                     f"({dict(self.faults.put_off)})")
        lines.append("workloads: rounds, steps, lives of the driver, longest time without progress, excused errors")
        for driver in self.drivers:
            tally = driver.tally
            lines.append(f"  {driver.name:10} {tally.rounds:5} {tally.steps:6} {tally.lives:4} {tally.longest_s:6.1f} s"
                         f"  {tally.excused or ''}")
        lines.append("left at the end: " + ("; ".join(left) or "nothing"))
        return "\n".join(lines)


def _not_logs(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if not os.path.isdir(os.path.join(directory, name))
            and not name.endswith((".log", ".log.1", ".out", ".err", ".txt"))}


def run(options: Options, apart: bool) -> int:
    """The exit code of a run."""
    machines: Apart | Here = Apart(options.hosts, DISK_MB) if apart else Here(options.hosts)
    this = Run(options, machines)
    failure = ""
    try:
        try:
            this.perform()
        except Failure as error:
            failure = str(error)
            this.say(f"FAILED: {failure}")
            this.investigate()
        left = this.end()
        if left and not failure:
            this.investigate()
        print(this.report(left), flush=True)
    finally:
        machines.close()
    if failure or left:
        print(f"seed {options.seed} FAILED: {failure or 'something is left'}\nlogs: {this.logs}", flush=True)
        return 1
    shutil.rmtree(this.logs, ignore_errors=True)
    print(f"seed {options.seed}: {options.seconds:g} s, no failure", flush=True)
    return 0
