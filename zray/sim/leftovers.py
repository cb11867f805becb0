"""Finds what is left in a simulated cluster after everything has been dropped: nothing may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from zray.sim.node import SimNode
from zray.sim.observed import Observed


def settled(cluster: Observed) -> bool:
    """Every node that lives has joined, knows exactly the others that live, and one configuration; none is leaving."""
    nodes = list(cluster.nodes.values())
    if cluster.returning or not nodes or not all(node.ready and not node.is_leaving for node in nodes):
        return False
    names = {node.incarnation for node in nodes}
    return (len({node.gcs.config.generation for node in nodes}) == 1
            and all(node.machine.cluster.peers.keys() | {node.incarnation} == names for node in nodes))


def of(cluster: Observed) -> list[str]:
    """What is left, in words."""
    unheard = cluster.stores.unheard()
    if cluster.returning:
        return [f"node {node!r} is to begin again" for node in cluster.returning]
    left = [f"{core.kind} {core.incarnation!r}" for core in cluster.cores.values()
            if not core.quiet() and not core.node_is_lost]
    for node in cluster.nodes.values():
        if not node.ready:
            left.append(f"node {node.incarnation!r} still joins")
            continue
        left += [f"node {node.incarnation!r}: {what}" for what in _of_node(node, unheard)]
    return left


def _of_node(node: SimNode, unheard: set[int]) -> Iterator[str]:
    machine = node.machine
    if objects := node.around.stores.blocks.get(node.incarnation, {}).keys() - unheard:
        yield f"objects in its store {_stored(node, objects)}"
    if machine.placements:
        yield f"placements {[p.row() for p in machine.placements.values()]}"
    if machine.scheduler.available() != machine.scheduler.total():
        yield f"free {machine.scheduler.available()} of {machine.scheduler.total()}"
    for actor in machine.actors.actors.values():
        if actor.state != "DEAD":
            yield f"actor {actor.id.hex()} {actor.state} life {actor.life}"
    groups = machine.groups
    for what, found in (
            ("groups", [group for group, found in groups.table.groups.items() if found.state != "REMOVED"]),
            ("bundles", groups.bundles.rounds),
            ("foreign actors", machine.foreign.actors), ("watches", machine.actor_rows.entries),
            ("remote leases", machine.remote_leases.leases),
            ("dials", machine.cluster._dialling), ("requests", machine.places.requests),
            ("asked", machine.queries.asked), ("checkpoints", node.files.names("")),
            ("requests of its client", node.gcs.client.open_calls()),
            ("leases elsewhere", machine.bottom_up.spillback.leases)):
        if found:
            yield f"{what} {found}"


def _stored(node: SimNode, generations: Collection[int]) -> list[tuple[str, bytes]]:
    blocks = node.around.stores.blocks.get(node.incarnation, {})
    return [(one.oid.hex(), one.owner) for generation, one in blocks.items() if generation in generations]


def of_jobs(cluster: Observed) -> list[str]:
    """What is left of the jobs, once all drivers are gone."""
    left = []
    for node in cluster.nodes.values():
        machine = node.machine
        owners = list(machine.scheduler.owners())
        for what, found in (
                ("objects in its store", _stored(node, node.around.stores.blocks.get(node.incarnation, ()))),
                ("jobs", machine.jobs.by_driver), ("keys", machine.leases.declared()), ("owners", owners),
                ("shares", machine.bottom_up.spillback.entries),
                ("leases elsewhere", machine.bottom_up.spillback.leases)):
            if found:
                left.append(f"node {node.incarnation!r}: {what} {found}")
    return left


def rows(cluster: Observed, tables: tuple[bytes, ...] = (b"",)) -> dict[bytes, bytes]:
    """What the control store holds in these tables, at its tails that live."""
    config = max((node.gcs.config for node in cluster.serving()), key=lambda config: config.generation)
    found: dict[bytes, bytes] = {}
    for shard, chain in enumerate(config.chains):
        tail = cluster.nodes.get(chain.tail)
        replica = tail.gcs.replicas.get(shard) if tail is not None else None
        if replica is not None:
            found.update({key: row.value for key, row in replica.state.tables.rows.items() if key.startswith(tables)})
    return found
