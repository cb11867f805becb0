"""Describes the state of a failing schedule, for debugging."""

from __future__ import annotations

from collections.abc import Iterator

from zray.sim import leftovers
from zray.sim.core import Core
from zray.sim.node import SimNode
from zray.sim.observed import Observed
from zray.sim.worker import SimWorker

SHOWN_MAX = 12  # objects of a process


def describe(cluster: Observed) -> str:
    """The nodes, and each process with something left."""
    lines = [f"{cluster.plan}", f"at {cluster.net.now:.4f}: {dict(cluster.net.counters)} {cluster.oracle.happened}",
             f"condemned {sorted(cluster.oracle.condemned)}, left: {leftovers.of(cluster)[:SHOWN_MAX]}"]
    lines += [line for node in cluster.nodes.values() for line in _node(node)]
    lines += [line for core in cluster.cores.values() if not core.quiet() for line in _process(core)]
    return "\n".join(lines)


def _node(node: SimNode) -> Iterator[str]:
    yield (f"node {node.incarnation!r} ready={node.ready} paused={node.paused} leaving={node.is_leaving} "
           f"stopping={node.core and node.core.stopping!r}")
    if not node.ready:
        return
    machine, gcs = node.machine, node.gcs
    waiting = [(e.owner, e.key, e.want, e.grants_seen, e.granted)
               for e in machine.scheduler.root.entries.values() if e.outstanding]
    actors = [(a.id.hex(), a.state, a.life, a.worker) for a in machine.actors.actors.values() if a.state != "DEAD"]
    yield f"  free {machine.scheduler.available()}, peers {list(machine.cluster.peers)}"
    yield f"  config {gcs.config}"
    yield f"  rows {gcs.control.rows}"
    yield f"  placements {[p.row() for p in machine.placements.values()]}"
    yield f"  workers {list(machine.pool.workers.values())}"
    yield f"  waiting {waiting}"
    yield f"  actors {actors}, foreign {list(machine.foreign.actors)}, remote leases {machine.remote_leases.leases}"


def _process(core: Core) -> Iterator[str]:
    refs, programs = core.refs, core.around.oracle.programs
    yield f"{core.kind} {core.incarnation!r} job {core.job}"
    yield f"  its node is lost: {core.node_is_lost}"
    if isinstance(core, SimWorker) and core.running is not None:
        task = core.running.task[0]
        yield f"  runs {task.hex()} {programs.get(task)} blocked={core.blocked}"
    for oid, entry in list(refs.owned.items())[:SHOWN_MAX]:
        yield (f"  owns {oid.hex()} {programs.get(oid[:24])} ready={entry.value is not None} refs={entry.refs} "
               f"holders={entry.holders}")
        if entry.task is not None:
            yield f"    {(core.submitter if entry.task.key else core.calls).explain(entry.task)}"
    for record in list(refs.borrowed.values())[:SHOWN_MAX]:
        yield (f"  borrows {record.oid.hex()} of {record.owner!r} ready={record.value is not None} refs={record.refs} "
               f"confirmed={record.confirmed}")
    yield f"  transits {refs.transits} arrivals {refs.arrivals} drops {refs.dropped_holds} held_by {refs.held_by}"
    for key in core.submitter.by_number.values():
        if key.queue or key.leases or key.want:
            leases = [(x.number, x.link.peer, len(x.inflight), x.paused, x.recalled, x.death_notice)
                      for x in key.leases.values()]
            yield (f"  key {key.number} {key.demand}: {len(key.queue)} queued, want {key.want}, granted {key.granted}, "
                   f"status {key.status}, leases {leases}")
    for link in core.calls.links.values():
        if link.unfinished:
            yield (f"  actor {link.actor.hex()} {link.state} life {link.life}: {len(link.queue)} queued, "
                   f"{len(link.inflight)} in flight")
