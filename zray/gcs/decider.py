"""What the configuration of the control store should become: a pure function of what its proposer knows.

One step a generation, the most urgent first:

    1. members that failed leave their chains (as long as somebody stays who is known to hold every acknowledged write)
    2. voters that are dead are replaced; 1 voter below three nodes, 3 below five, then 5
    3. a joining replica that has caught up becomes the tail
    4. nodes that leave the cluster leave their chains, once others hold the data
    5. chains grow to three replicas on distinct nodes, placed where there are fewest
    6. chains move towards nodes that hold fewer replicas

The choice affects speed and balance only: whatever is proposed, the register lets one configuration win a generation,
and refuses to remove a tail that may still answer reads.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from zray.gcs.config import ChainConfig, ClusterConfig, majority

REPLICAS = 3


class View(NamedTuple):
    """What the proposer knows.  Nodes are incarnations."""

    living: int  # nodes that may take a part once they have shown a sign of life
    usable: dict[bytes, int]  # those that have -> their ordinal
    failed: frozenset[bytes]  # silent, lost or gone: out of the chains
    dead: frozenset[bytes]  # lost, gone, or leaving: no voters any more
    leaving: frozenset[bytes]
    freed: frozenset[bytes]  # certainly answer no reads
    established: frozenset[tuple[int, bytes]]  # (shard, member): known to hold every acknowledged write
    caught_up: frozenset[tuple[int, int]]  # (shard, epoch): the tail says so of the joining replica


def voters_wanted(nodes: int) -> int:
    """One below three nodes, three below five, else five: what is gained by more is lost again in waiting."""
    return 1 if nodes < 3 else 3 if nodes < 5 else 5


def next_config(config: ClusterConfig, view: View) -> ClusterConfig | None:
    """The configuration to propose next, None when all is well (or nothing can be done)."""
    chains = _without_failed(config, view)
    if chains == config.chains:
        voters = next_voters(config.voters, view)
        if voters != config.voters:
            return config._replace(generation=config.generation + 1, voters=voters, freed=())
        chains = tuple(_repaired(shard, chain, config, view) for shard, chain in enumerate(config.chains))
    if chains == config.chains:
        chains = _balanced(config, view)
    if chains == config.chains:
        return None
    value = config._replace(generation=config.generation + 1, chains=chains, freed=())
    return value._replace(freed=tuple(sorted(config.removed_by(value) & view.freed)))


def next_voters(voters: tuple[bytes, ...], view: View) -> tuple[bytes, ...]:
    """Keep who is well, in order, then the lowest nodes, then who is silent.  Never a set that could not decide now."""
    kept = [voter for voter in voters if voter not in view.dead]
    silent = [voter for voter in kept if voter in view.failed]
    spare = [node for node in sorted(view.usable, key=lambda node: (view.usable[node], node)) if node not in kept]
    candidates = [*(voter for voter in kept if voter not in silent), *spare, *silent]
    many = min(voters_wanted(view.living + len(silent)), len(candidates))
    chosen = tuple(candidates[:many - 1 + many % 2])  # an even number survives no more than one less does
    if set(chosen) == set(voters) or not majority(chosen, set(view.usable)):
        return voters
    return chosen


def _without_failed(config: ClusterConfig, view: View) -> tuple[ChainConfig, ...]:
    chains = []
    for shard, chain in enumerate(config.chains):
        if chain.joining and chain.joining in view.failed:
            chain = chain.without(chain.joining)
        for name in chain.members:
            if name in view.failed and _others_hold(shard, chain, name, view):
                chain = chain.without(name)
        chains.append(chain)
    return tuple(chains)


def _others_hold(shard: int, chain: ChainConfig, name: bytes, view: View) -> bool:
    """Somebody else who is well holds every acknowledged write, and the chain then begins with such a one."""
    rest = [member for member in chain.members if member != name]
    well = [member for member in rest if member not in view.failed]
    if not well or (shard, well[0]) not in view.established:
        return False
    return (shard, rest[0]) in view.established


def _repaired(shard: int, chain: ChainConfig, config: ClusterConfig, view: View) -> ChainConfig:
    if chain.joining:
        return chain.promoted() if (shard, chain.epoch) in view.caught_up else chain
    for name in chain.members:
        if name in view.leaving and _others_hold(shard, chain, name, view):
            return chain.without(name)
    if len(chain.members) > REPLICAS:
        return chain.without(_surplus(shard, chain, config, view))
    staying = [name for name in chain.members if name not in view.leaving]
    return _joined(chain, config, view) if len(staying) < REPLICAS else chain


def _joined(chain: ChainConfig, config: ClusterConfig, view: View) -> ChainConfig:
    load = _load(config)
    spare = [node for node in view.usable if node not in chain.members]
    if not spare:
        return chain
    return chain.join(min(spare, key=lambda node: (load[node], view.usable[node], node)))


def _surplus(shard: int, chain: ChainConfig, config: ClusterConfig, view: View) -> bytes:
    """The member with the most replicas goes, of equals the one nearest to the head that is not needed as head."""
    load = _load(config)
    choice = [name for name in chain.members[:-1] if _others_hold(shard, chain, name, view)] or [chain.tail]
    return max(choice, key=lambda name: load[name])


def _balanced(config: ClusterConfig, view: View) -> tuple[ChainConfig, ...]:
    """Move one replica from the fullest node to the emptiest, when that makes the difference smaller."""
    load = _load(config)
    if not view.usable or any(chain.joining for chain in config.chains):
        return config.chains
    least = min(view.usable, key=lambda node: (load[node], view.usable[node], node))
    for shard, chain in sorted(enumerate(config.chains), key=lambda pair: -max(load[n] for n in pair[1].members)):
        if len(chain.members) == REPLICAS and least not in chain.members and (
                max(load[name] for name in chain.members[:-1]) > load[least] + 1):
            return (*config.chains[:shard], chain.join(least), *config.chains[shard + 1:])
    return config.chains


def _load(config: ClusterConfig) -> Counter[bytes]:
    return Counter(name for chain in config.chains for name in (*chain.members, chain.joining) if name)
