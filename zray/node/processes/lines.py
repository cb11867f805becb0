"""The output of workers, from their log files (zray.node.processes.output) to the drivers of their jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zray.base.ids import same_node
from zray.base.ports import Ports
from zray.node.jobs.table import Job
from zray.node.processes.output import LINES_GATHER_S, Output
from zray.node.processes.pool import WorkerRecord
from zray.wire.messages import LogLines

LINES_A_MESSAGE = 1000
LOOKS_MAX = 4  # of log_lines_max lines each: one question must not hold up the node for long

ByJob = dict[int, list[list[Any]]]


class LinesPorts(Ports):
    """Ports of lines of workers."""

    clock: Callable[[], float]
    output: Output
    pause: Callable[[int], None]  # ignore that descriptor
    resume: Callable[[int], None]
    send: Callable[[bytes, Any], None]
    node: Mapping[str, Any]  # as zray.nodes() shows it
    workers: Mapping[bytes, WorkerRecord]
    jobs: Mapping[int, Job]


class Lines:
    """The lines of one node's workers."""

    def __init__(self, me: bytes, ports: LinesPorts):
        self._me = me
        self._ports = ports
        self.due: float | None = None  # when to read the written logs

    def start(self) -> int:
        """The descriptor that reports writes, -1 without one: then tick() reads the logs at intervals."""
        output = self._ports.output
        if output.fd < 0:
            self.due = self._ports.clock() + output.rescan_s
        return output.fd

    def written(self) -> None:
        """Ignore further writes until the lines have gathered."""
        if self.due is None:
            self._ports.pause(self._ports.output.fd)
            self.due = self._ports.clock() + LINES_GATHER_S

    def next_deadline(self) -> float | None:
        return self.due

    def tick(self, now: float) -> None:
        if self.due is None or now < self.due:
            return
        output = self._ports.output
        self.due = None
        output.note_writes()
        self.assign()
        lines, unfinished = output.read()
        self.deliver(lines, output.take_skipped(), unfinished)
        if output.fd < 0:
            self.due = now + output.rescan_s
        elif output.pending:
            self.due = now + LINES_GATHER_S
        else:
            self._ports.resume(output.fd)

    def look(self, now: float) -> None:
        """Send what has been printed so far, without waiting for more; a long backlog goes on by the timer."""
        for _ in range(LOOKS_MAX):
            self.due = now
            self.tick(now)
            if not self._ports.output.pending:
                break

    def assign(self) -> None:
        """Assign workers' output to jobs; done when there is output, not at each grant."""
        for worker in self._ports.workers.values():
            if worker.kind is not None:
                self._ports.output.assign(worker.incarnation, worker.kind.job, worker.pid)

    def deliver(self, lines: ByJob, dropped: int, unfinished: ByJob | None = None) -> None:
        """``unfinished``: lines without an end so far."""
        unfinished = unfinished or {}
        for job in sorted(lines.keys() | unfinished.keys()):
            record = self._ports.jobs.get(job)
            if record is not None and not record.is_over and record.config.get("log_to_driver", True):
                self.send(record.driver, lines.get(job, []), dropped, unfinished.get(job, []))

    def send(self, driver: bytes, lines: list[list[Any]], dropped: int, unfinished: list[list[Any]]) -> None:
        ip = "" if same_node(driver, self._me) else self._ports.node["NodeManagerAddress"]
        for start in range(0, len(lines), LINES_A_MESSAGE):
            part = lines[start:start + LINES_A_MESSAGE]
            self._ports.send(driver, LogLines(part, dropped if start == 0 else 0, ip))
        for start in range(0, len(unfinished), LINES_A_MESSAGE):
            self._ports.send(driver, LogLines([], 0, ip, unfinished[start:start + LINES_A_MESSAGE]))
