"""The register of ends against lists: each end is news once until the bound forgets it, and a node implies its own."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zray.base.ends import Ends

KEPT_MAX = 3
NODES = [tag + bytes(4) for tag in (b"nodA", b"nodB", b"nodC", b"nodD", b"nodE")]
PROCESSES = [node[:4] + bytes((0, 0, 0, number)) for node in NODES for number in (1, 2)]
JOBS = range(6)


class EndsModel(RuleBasedStateMachine):
    """``kept``: for each kind what is remembered, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = Ends(KEPT_MAX)
        self.kept: dict[str, list[bytes | int]] = {"nodes": [], "processes": [], "jobs": []}

    def enter(self, kind: str, what: bytes | int, news: bool) -> bool:
        if news:
            self.kept[kind] = [*self.kept[kind], what][-KEPT_MAX:]
        return news

    def node_is_kept(self, process: bytes) -> bool:
        return any(isinstance(node, bytes) and node[:4] == process[:4] for node in self.kept["nodes"])

    @rule(node=st.sampled_from(NODES))
    def node_ended(self, node: bytes) -> None:
        assert self.ends.node_ended(node) == self.enter("nodes", node, node not in self.kept["nodes"])

    @rule(process=st.sampled_from(PROCESSES))
    def process_ended(self, process: bytes) -> None:
        news = process not in self.kept["processes"] and not self.node_is_kept(process)
        assert self.ends.process_ended(process) == self.enter("processes", process, news)

    @rule(job=st.sampled_from(JOBS))
    def job_ended(self, job: int) -> None:
        assert self.ends.job_ended(job) == self.enter("jobs", job, job not in self.kept["jobs"])

    @invariant()
    def agrees(self) -> None:
        ends = self.ends
        ends.check()
        assert [list(ends.nodes), list(ends.processes), list(ends.jobs)] == list(self.kept.values())
        for process in PROCESSES:
            assert ends.has_ended(process) == (process in self.kept["processes"] or self.node_is_kept(process))
        for node in NODES:
            assert ends.has_ended(node) == (node in self.kept["nodes"])


TestEnds = EndsModel.TestCase
