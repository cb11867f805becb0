"""Drivers and their jobs, from Hello to the end: of this node, and of other nodes that announced theirs.  Pure.

    Hello, RegisterDriver       a job
    JobStart of another node    the same, without a driver here; it may come after the end
    Goodbye, Bye, the process or its node is gone, JobEnd of another node
                                its actors, groups, leases and workers end, on this node and on those that it
                                informed of the job; detached actors stay, and with them the job's configuration
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from zray.base.config import Config
from zray.base.ids import node_of
from zray.base.ports import Ports
from zray.node.actors.foreign import ForeignActors
from zray.node.actors.table import ActorTable
from zray.node.context import NodeContext
from zray.node.effects import JOB_OVER, DropJob, EndJob, Forget, Note, Watch
from zray.node.jobs.table import JOB_BITS, Job, JobTable
from zray.node.leases.placements import Placements
from zray.node.names_table import Names
from zray.node.peers.cluster import PeerNodes
from zray.node.processes.local import LocalProcesses
from zray.node.processes.pool import WorkerPool
from zray.wire import messages as m

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

# In node_timeout_s, after a node's death.  By then another node has adopted its actors, or ended
# their rows, also when the control store had to choose another configuration first.
ADOPTED_TIMEOUTS = 3.0


class DriverPorts(Ports):
    """Ports of drivers."""

    config: Config
    node: dict[str, Any]  # as zray.nodes() shows it
    pool: WorkerPool
    placements: Placements
    processes: LocalProcesses
    names: Names
    cluster: PeerNodes
    actors: ActorTable
    foreign: ForeignActors
    # (incarnation, pid): the data with which that driver attaches to the store
    attach: Callable[[bytes, int], dict[str, Any]]
    process_ended: Callable[[bytes, str], None]  # the process has ended
    end_groups: Callable[[int], None]  # of that job
    jobs_with_groups: Callable[[], set[int]]  # jobs with groups that have their home here, which end with the job


class Drivers:
    """See the module's docstring."""

    def __init__(self, context: NodeContext, jobs: JobTable, ports: DriverPorts):
        self._context = context
        self._ports = ports
        self.jobs = jobs
        self.hellos = ports.processes.hellos
        # What the driver of this node that left last knew at its end, by the question: rows and total as in
        # ProcessAnswer.
        self.last_rows: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._kept: set[int] = set()  # jobs that are over, and had an actor elsewhere at the last question
        self._ask_at: float | None = None  # the time of the next question
        self.handlers: dict[int, Callable[[bytes, Any], None]] = {
            m.Hello.CODE: self._hello, m.HelloAck.CODE: lambda peer, message: None,
            m.RegisterDriver.CODE: self._register, m.Goodbye.CODE: self._goodbye, m.Bye.CODE: self._bye,
            m.ResumeReport.CODE: self._resume_report, m.JobStart.CODE: self._job_start, m.JobEnd.CODE: self._job_end,
        }

    def _hello(self, peer: bytes, hello: m.Hello) -> None:
        refused = ""
        if hello.protocol != m.PROTOCOL:
            refused = f"this node speaks protocol {m.PROTOCOL}, not {hello.protocol}"
        elif hello.kind == "driver" and hello.python.split(".")[:2] != PYTHON.split("."):
            refused = f"this node runs Python {PYTHON}, the driver {hello.python}: their pickles may differ"
        elif hello.kind == "worker" and peer not in self._ports.pool.workers:
            refused = "no worker of this node"
        elif hello.kind != "node" and not self._context.is_mine(peer):
            refused = "a process of another node: it must talk to its own"
        self._context.send(peer, m.HelloAck(m.PROTOCOL, "node", list(m.FEATURES), refused))
        if refused:
            self._context.refuse(peer, refused)
            if self._context.is_mine(peer):
                self._context.emit(Watch(peer, hello.pid))  # to drop its session when it ends
        elif hello.kind == "node":
            pass  # the nodes table reports the end of a node
        elif hello.kind == "worker":
            self._ports.pool.workers[peer].endpoint = hello.endpoint
        elif peer not in self.hellos:
            self.hellos[peer] = hello
            self._context.emit(Watch(peer, hello.pid))

    def _register(self, peer: bytes, message: m.RegisterDriver) -> None:
        hello = self.hellos.get(peer)
        if hello is None or hello.kind != "driver":
            self._context.refuse(peer, "RegisterDriver without a driver's Hello")
            return
        job = self.jobs.register(peer, hello.pid, message.config, self._context.now)
        self._ports.names.record_job(job.number, job.row())
        self._context.emit(Note("job_started", {"job": job.number, "pid": job.pid}))
        self._context.send(peer, m.DriverAccepted(
            job.number, self._ports.node, self._ports.attach(peer, job.pid), self._ports.config.as_dict()))

    def _resume_report(self, peer: bytes, message: m.ResumeReport) -> None:
        job = self.jobs.by_driver.get(peer)
        if job is not None:
            job.resume = {str(name): count for name, count in message.counts.items() if type(count) is int}

    def _goodbye(self, peer: bytes, message: m.Goodbye) -> None:
        if message.rows and peer in self.jobs.by_driver:
            self.last_rows = _checked(message.rows, self._ports.processes.shown(peer))
        self.over(peer, message.reason or "the driver said goodbye", m.Bye("the job is over"))

    def _bye(self, peer: bytes, message: m.Bye) -> None:
        if peer in self._ports.pool.workers:
            return  # its death follows
        if self.hellos.pop(peer, None) is not None:
            self.over(peer, message.reason or "the driver left", None)
            self._context.emit(Forget(peer))

    def over(self, peer: bytes, reason: str, reply: m.Bye | None) -> None:
        """End the driver's job: its actors, its leases, its workers; detached actors stay."""
        job = self.jobs.over(peer, self._context.now, self.is_used)
        if job is None:
            if reply is not None:
                self._context.send(peer, reply)
            return
        self._ports.names.record_job(job.number, job.row())
        for number in self.jobs.forgotten():
            self._ports.names.record_job(number, None)
        self.end_job(job, reason)
        self._context.emit(EndJob(job.number, peer, reply))
        self._ports.pool.prestart(self._context.now)

    def end_job(self, job: Job, reason: str) -> None:
        """The driver is gone: end the job on this node and on the nodes that this one informed of it."""
        context, ports = self._context, self._ports
        context.emit(Note("job_over", {"job": job.number, "reason": reason}))
        stays = self._staying(job.number)
        for worker in ports.pool.of_job(job.number):
            placement = ports.placements.get(worker.lease)
            owner = placement.owner if placement is not None and placement.worker is worker else b""
            if worker.incarnation not in stays and not self._outlives_driver(job, owner, stays):
                ports.pool.dismiss(worker, JOB_OVER, context.now)
        ports.actors.job_ended(job.number)
        # Nodes that were informed may have informed others and then died, so the driver's node informs all.
        # So does the home of an actor that stays: its row may be under way to the control store.
        used = job.announced_used = ports.actors.job_is_used(job.number)
        everybody = ports.cluster.peers if used or context.is_mine(job.driver) else ()
        for node in sorted(job.informed.union(everybody)):
            context.send(node, m.JobEnd(job.number, reason, False, used))
        job.informed.clear()
        self._end_groups(job.number)
        ports.process_ended(job.driver, reason)
        for placement in [p for p in ports.placements.values() if p.worker is None and not p.actor
                          and p.kind.job == job.number and not self._outlives_driver(job, p.owner, stays)]:
            ports.placements.give_back(placement)
        self.may_be_done(job.number)

    def _end_groups(self, number: int) -> None:
        """The job has ended, known here or not: word of its beginning, which other nodes pass on, may come later."""
        self._context.ends.job_ended(number)
        self._ports.end_groups(number)

    def _staying(self, number: int) -> set[bytes]:
        """Workers that go on without their driver: of detached actors, and of foreign actors, whose home decides."""
        ports, found = self._ports, set()
        for worker in ports.pool.of_job(number):
            actor = ports.actors.actors.get(worker.actor)
            if worker.actor in ports.foreign.actors or (
                    actor is not None and actor.detached and actor.state != "DEAD"):
                found.add(worker.incarnation)
        return found

    def _outlives_driver(self, job: Job, owner: bytes, stays: set[bytes]) -> bool:
        """Whether the leases and actors of ``owner`` here outlive the driver.

        An owner on another node may be a detached actor.  If it is none, it ends there and its node announces that.
        """
        return owner in stays or (owner not in (b"", job.driver) and not self._context.is_mine(owner))

    def may_be_done(self, number: int) -> None:
        """Drop the objects and functions of a job with its last process on any node."""
        if not self._is_done(number):
            return
        job = self.jobs.jobs[number]
        if job.announced_used:
            job.announced_used = False
            for node in sorted(self._ports.cluster.peers):
                self._context.send(node, m.JobEnd(number, "its actors of this home have ended"))
        if self._ports.cluster.lone:
            self._drop(number)
        elif job.homes:
            self._kept.add(number)  # these nodes report the end of their actors
        else:  # an actor that outlives its driver may live elsewhere; this node knows only those with their home here
            self._ports.names.job_is_used(number, self._context.me, lambda used: self._answered(number, used))

    def actor_ended(self, number: int) -> None:
        """A detached actor of the job, with its home here, has ended; of an adopted one the job may
        be unknown here."""
        if number in self.jobs.jobs:
            self.may_be_done(number)
        else:
            self.ask_ended(number, lambda ended: self._adopted_ended(number) if ended else None)

    def _adopted_ended(self, number: int) -> None:
        if not self._ports.cluster.lone and not self.is_used(number):
            self._ports.names.job_is_used(number, self._context.me,
                                          lambda used: None if used else self._announce_last_end(number))

    def _announce_last_end(self, number: int) -> None:
        for node in sorted(self._ports.cluster.peers):  # they keep the objects of the job until now
            self._context.send(node, m.JobEnd(number, "its last actor has ended", True))

    def _answered(self, number: int, used: bool) -> None:
        if used:  # the home of its last actor informs us, unless it dies: see node_ended
            self._kept.add(number)
        else:
            self._drop(number)

    def tick(self, now: float) -> None:
        """Ask again about the jobs that are kept for an actor elsewhere."""
        if self._ask_at is None or now < self._ask_at:
            return
        self._ask_at = None
        kept, self._kept = self._kept, set()
        for number in sorted(kept):
            self.may_be_done(number)

    def next_deadline(self) -> float | None:
        return self._ask_at

    def _is_done(self, number: int) -> bool:
        """Whether the job is over and this node has no process and no actor of it, but still its objects."""
        job = self.jobs.jobs.get(number)
        return job is not None and job.is_over and not job.dropped and not self._ports.pool.of_job(number) \
            and not self.is_used(number)

    def _drop(self, number: int) -> None:
        if not self._is_done(number):
            return  # it changed after the question to the control store
        self.jobs.jobs[number].dropped = True
        self._kept.discard(number)
        self._context.emit(DropJob(number))
        if any(actor.job == number and actor.detached for actor in self._ports.actors.actors.values()):
            self._announce_last_end(number)

    def announce_job(self, job: Job, node: bytes) -> None:
        """Begin a job, before any other message about it."""
        if node not in job.informed:
            job.informed.add(node)
            self._context.send(node, m.JobStart(job.number, job.driver, job.config))
            if job.is_over:  # only detached work still runs for it
                self._context.send(node, m.JobEnd(job.number, "its driver is gone"))

    def _job_start(self, peer: bytes, message: m.JobStart) -> None:
        """JobEnd of another node, which may not be the driver's.  So its end may be known already,
        or its beginning unknown."""
        number, jobs = message.job, self.jobs
        fresh = number not in jobs.jobs
        job = jobs.foreign(number, message.driver, message.config, self._context.now)
        if not fresh:
            return
        if number in self._context.ends.jobs or self._context.ends.has_ended(job.driver):
            self._foreign_over(job, "its driver was gone before this node heard of it")
        elif node_of(job.driver) != peer:
            self._ports.names.job_ended(
                number, lambda ended: self._foreign_over(job, "its driver is gone") if ended else None)

    def learn(self, number: int, driver: bytes, config: dict) -> None:
        """This node has adopted an actor of a job that it may not know."""
        self._job_start(self._context.me, m.JobStart(number, driver, config))

    def _job_end(self, peer: bytes, message: m.JobEnd) -> None:
        job = self.jobs.jobs.get(message.job)
        if job is None:
            self._end_groups(message.job)  # those that were adopted here
            return
        (job.homes.add if message.used else job.homes.discard)(peer)
        if message.last and not job.homes and self._is_done(job.number):
            self._drop(job.number)
        elif not job.is_over and not self._context.is_mine(job.driver):
            self._foreign_over(job, message.reason)
        elif job.number in self._kept and not job.homes:
            self.may_be_done(job.number)

    def foreign_ended(self, process: bytes, reason: str) -> bool:
        """A process of another node has ended; returns whether it was a driver whose job is known here."""
        job = self.jobs.by_driver.get(process)
        if job is None:
            return False
        self._foreign_over(job, reason)  # the node that announced the job may die before it announces the end
        return True

    def node_ended(self, node: bytes, reason: str) -> None:
        """All drivers of that node are gone.  Its actors are gone too, or another node adopts them
        and writes their rows."""
        ports = self._ports
        self._ask_at = self._context.now + ADOPTED_TIMEOUTS * ports.config.node_timeout_s
        for job in self.jobs.jobs.values():
            job.homes.discard(node)
        for job in [job for job in self.jobs.by_driver.values() if node_of(job.driver) == node]:
            self._foreign_over(job, f"the node of its driver is gone: {reason}")
        ordinal = ports.cluster.last_rows[node].get("ordinal")
        for number in ports.jobs_with_groups():
            if number >> JOB_BITS == ordinal and number not in self.jobs.jobs:
                self._end_groups(number)

    def _foreign_over(self, job: Job, reason: str) -> None:
        if not job.is_over:
            self.jobs.over(job.driver, self._context.now, self.is_used)
            self.end_job(job, reason)

    def ask_ended(self, number: int, then: Callable[[bool], None]) -> None:
        """``then(ended)``: this node may not know the job; then it asks the control store."""
        job = self.jobs.jobs.get(number)
        if job is not None or number in self._context.ends.jobs:
            then(job is None or job.is_over)
        else:
            self._ports.names.job_ended(number, then)

    def is_used(self, number: int) -> bool:
        return self._ports.actors.job_is_used(number) or self._ports.foreign.job_is_used(number)

    def job_of(self, peer: bytes) -> Job | None:
        """The job of a core process; of a worker even after its driver is gone (detached actors)."""
        job = self.jobs.by_driver.get(peer)
        if job is None:
            worker = self._ports.pool.workers.get(peer)
            job = self.jobs.jobs.get(worker.job) if worker is not None else None
        return job


def _checked(answers: dict[str, Any], process: dict[str, Any]) -> dict[str, tuple[list[dict[str, Any]], int]]:
    """The rows of a Goodbye, each with its process; what is malformed is left out."""
    return {what: ([{**row, "process": process} for row in answer[0] if type(row) is dict], answer[1])
            for what, answer in answers.items()
            if type(answer) is list and [type(part) for part in answer] == [list, int]}
