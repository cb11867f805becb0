"""What workers print, from their log files (zray.node.output) to the drivers of their jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.ids import same_node

if TYPE_CHECKING:
    from zray.node.daemon import Daemon

LINES_A_MESSAGE = 1000

ByJob = dict[int, list[list[Any]]]


class Lines:
    """The lines of one node's workers."""

    def __init__(self, daemon: Daemon, send: Callable[[bytes, Any], None]):
        self._daemon = daemon
        self._send = send
        self.due: float | None = None  # when to read the logs that were written to

    def written(self) -> None:
        """Be silent until the lines have gathered."""
        if self.due is None:
            from zray.node.output import GATHER_S

            self._daemon.watcher.pause(self._daemon.output.fd)
            self.due = time.monotonic() + GATHER_S

    def tick(self, now: float) -> None:
        if self.due is None or now < self.due:
            return
        from zray.node.output import GATHER_S

        output = self._daemon.output
        self.due = None
        output.note_writes()
        self.assign()
        lines, unfinished = output.read()
        self.deliver(lines, output.take_skipped(), unfinished)
        if output.fd < 0:
            self.due = now + output.rescan_s
        elif output.pending:
            self.due = now + GATHER_S
        else:
            self._daemon.watcher.resume(output.fd)

    def assign(self) -> None:
        """Say whose output is whose; looked up when there is some, not at each grant."""
        for worker in self._daemon.machine.pool.workers.values():
            if worker.kind is not None:
                self._daemon.output.assign(worker.incarnation, worker.kind.job, worker.pid)

    def deliver(self, lines: ByJob, dropped: int, unfinished: ByJob | None = None) -> None:
        """``unfinished``: lines that have not ended."""
        unfinished = unfinished or {}
        for job in sorted(lines.keys() | unfinished.keys()):
            record = self._daemon.machine.jobs.jobs.get(job)
            if record is not None and not record.is_over and record.config.get("log_to_driver", True):
                self.send(record.driver, lines.get(job, []), dropped, unfinished.get(job, []))

    def send(self, driver: bytes, lines: list[list[Any]], dropped: int, unfinished: list[list[Any]]) -> None:
        from zray.messages import LogLines

        daemon = self._daemon
        ip = "" if same_node(driver, daemon.incarnation) else daemon.machine.node["NodeManagerAddress"]
        for start in range(0, len(lines), LINES_A_MESSAGE):
            part = lines[start:start + LINES_A_MESSAGE]
            self._send(driver, LogLines(part, dropped if start == 0 else 0, ip))
        for start in range(0, len(unfinished), LINES_A_MESSAGE):
            self._send(driver, LogLines([], 0, ip, unfinished[start:start + LINES_A_MESSAGE]))
