"""The core processes of this node, and the announcement of ended processes to them.  Pure."""

from __future__ import annotations

from typing import Any

from zray.base.ids import WORKER_SIZE, node_of
from zray.node.context import NodeContext
from zray.node.jobs.table import JobTable
from zray.node.processes.pool import State, WorkerPool
from zray.wire import messages as m

# With more processes than this, announcements of ends are collected: n ends among n processes are
# n*n messages, and only frames make them cheap.  A round wakes every process, which costs some 0.1
# ms of CPU each: a fifth of a core at most.
GONE_AT_ONCE_MAX = 64
GONE_GATHER_S = 0.0005  # for each process


class LocalProcesses:
    """Drivers and tools by their Hello, workers as the pool has them."""

    def __init__(self, context: NodeContext, jobs: JobTable, pool: WorkerPool) -> None:
        self._context = context
        self._jobs = jobs
        self._pool = pool
        self.hellos: dict[bytes, m.Hello] = {}  # of core processes that are not workers
        self._gone: list[m.ProcessGone] = []  # to be announced
        self._gone_at = 0.0

    def is_process(self, incarnation: bytes) -> bool:
        """Whether that is a core process of this node."""
        return incarnation in self._pool.workers or incarnation in self.hellos

    def holders(self) -> list[bytes]:
        """Processes that may hold objects."""
        return self._drivers() + [w.incarnation for w in self._pool.workers.values()
                                  # no message reaches a starting worker yet
                                  if w.kind is not None and w.state is not State.STARTING]

    def shown(self, process: bytes) -> dict[str, Any]:
        """A core process of this node, as the state API shows it."""
        worker = self._pool.workers.get(process)
        if worker is not None:
            return {"type": "WORKER", "worker_id": worker.id, "pid": worker.pid, "job": worker.job,
                    "actor": worker.actor}
        job = self._jobs.by_driver.get(process)
        return {"type": "DRIVER", "worker_id": process.ljust(WORKER_SIZE, b"\0"), "actor": b"",
                "pid": job.pid if job is not None else 0, "job": job.number if job is not None else 0}

    def that_know_others(self) -> list[bytes]:
        """Processes that hear of ends: also workers that leave, which stay while others hold their objects."""
        return self._drivers() + [w.incarnation for w in self._pool.workers.values()
                                  if w.kind is not None and w.state is not State.STARTING and not w.reason]

    def _drivers(self) -> list[bytes]:
        return [job.driver for job in self._jobs.by_driver.values() if self._context.is_mine(job.driver)]

    # ------------------------------------------------------------ ends of others

    def announce_process_ended(self, message: m.ProcessGone) -> None:
        """Announce an end: at once, or with the next ones."""
        if not self._gone:
            crowd = len(self.hellos) + len(self._pool.workers)
            now = self._context.now
            self._gone_at = now if crowd <= GONE_AT_ONCE_MAX else now + crowd * GONE_GATHER_S
        self._gone.append(message)

    def announce(self) -> None:
        """Send our processes the collected ends, if they are due."""
        if not self._gone or self._gone_at > self._context.now:
            return
        gone, self._gone = self._gone, []
        for peer in self.that_know_others():
            for message in gone:
                self._context.send(peer, message)

    def announce_all(self) -> None:
        """Send our processes all known ends at once, whatever their number."""
        self._gone_at = min(self._gone_at, self._context.now)
        self.announce()

    def announce_node_ended(self, node: bytes, reason: str) -> None:
        """A gone node stands for all its processes."""
        self._gone = [message for message in self._gone if node_of(message.process) != node]
        for peer in self.that_know_others():
            self._context.send(peer, m.NodeGone(node, reason))

    def next_deadline(self) -> float | None:
        return self._gone_at if self._gone else None
