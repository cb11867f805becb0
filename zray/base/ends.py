"""Which nodes, processes and jobs have certainly ended: one register for each process.  Pure.

What a process hears of another grows from doubt to certainty.  Each step has one verb, and handlers are named by it:

    verb        of a process                        of a node                          of a job
    closed      our connection to it has closed     -                                  -
    suspected   it does not answer, and may live    it is silent, or its endpoint      -
                                                    refuses connections
    ended       its node says that the process      the nodes table says that it is    its driver has ended
                has ended; or its node has ended    dead, has left or was removed

Only the last step is certain, and only it is kept here.  An incarnation never lives again, and a job number is never
used again, so an entry is true for ever.  It is forgotten when ENDS_KEPT_MAX younger ones of its kind have followed.

The part that hears of an end enters it before the other parts react to it.  All others ask this register.
"""

from __future__ import annotations

from zray.base.ids import node_of

# Of each kind.  Messages about an incarnation arrive within seconds of its end.  A full register takes about 3 MB.
ENDS_KEPT_MAX = 8192


class Ends:
    """See the module's docstring.

    nodes       incarnation -> why it has ended, oldest first
    processes   incarnations, oldest first; processes that ended with their node are in ``nodes`` only
    jobs        numbers, oldest first

    Each ``..._ended`` returns whether that is news.  Parts may keep the three dictionaries and look into them.
    """

    __slots__ = ("_kept_max", "jobs", "nodes", "processes")

    def __init__(self, kept_max: int = ENDS_KEPT_MAX) -> None:
        self.nodes: dict[bytes, str] = {}
        self.processes: dict[bytes, None] = {}
        self.jobs: dict[int, None] = {}
        self._kept_max = kept_max

    def node_ended(self, node: bytes, reason: str = "") -> bool:
        """A node has ended, and with it all its processes.  The first reason stays."""
        if node in self.nodes:
            return False
        self.nodes[node] = reason
        if len(self.nodes) > self._kept_max:
            del self.nodes[next(iter(self.nodes))]
        return True

    def process_ended(self, process: bytes) -> bool:
        if self.has_ended(process):
            return False
        self.processes[process] = None
        if len(self.processes) > self._kept_max:
            del self.processes[next(iter(self.processes))]
        return True

    def job_ended(self, job: int) -> bool:
        if job in self.jobs:
            return False
        self.jobs[job] = None
        if len(self.jobs) > self._kept_max:
            del self.jobs[next(iter(self.jobs))]
        return True

    def has_ended(self, process: bytes) -> bool:
        """Whether that process, or its node with all its processes, is known to have ended."""
        return process in self.processes or node_of(process) in self.nodes

    def check(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        for kind in (self.nodes, self.processes, self.jobs):
            assert len(kind) <= self._kept_max
        assert all(node_of(node) == node for node in self.nodes), "a process is registered as a node"
