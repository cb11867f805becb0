"""The next configuration of the control store: a pure function of its proposer's knowledge.

One kind of step a generation, the most urgent first, for all chains that need it:

    1. failed members leave their chains (as long as one stays that is known to hold every acknowledged write;
       those that are only silent, and not for long, as long as two stay: a machine that is overloaded makes several
       silent at once, and a chain of one replica is lost with one node)
    2. voters that are dead are replaced; 1 voter below three nodes, 3 below five, then 5; one goes or comes at a time
    3. joining replicas that have caught up become tails, all at once unless some take long;
       nodes that leave the cluster leave their chains, once others hold the data;
       chains grow to three replicas on distinct nodes, placed where there are fewest
    4. chains move towards nodes that hold fewer replicas
    5. heads move behind their tails, until no node is head or tail of more chains than it need be

A move is a join (step 4), a promotion and a removal (step 3): three generations, whatever the number of chains.

The choice affects speed and balance only: whatever is proposed, the register lets one configuration win a generation,
and refuses to remove a tail that may still answer reads.
"""

from __future__ import annotations

from collections import Counter

from zray.base.named_tuples import NamedTuple
from zray.gcs.configuration.config import ChainConfig, ClusterConfig, majority

REPLICAS = 3
# The replicas that stay when a member leaves because it is silent for a moment, where the cluster has as many nodes.
STAYING_MIN = 2

Chains = tuple[ChainConfig, ...]


class ProposerView(NamedTuple):
    """The proposer's knowledge.  Nodes are incarnations."""

    living: int  # nodes that may take a part once they have shown a sign of life
    usable: dict[bytes, int]  # those that have -> their ordinal
    failed: frozenset[bytes]  # silent, lost or gone: out of the chains
    dead: frozenset[bytes]  # lost, gone, or leaving: no voters any more
    leaving: frozenset[bytes]
    freed: frozenset[bytes]  # certainly answer no reads
    established: frozenset[tuple[int, bytes]]  # (shard, member): known to hold every acknowledged write
    caught_up: frozenset[tuple[int, int]]  # (shard, epoch): the tail reports so of the joining replica
    briefly: frozenset[bytes] = frozenset()  # failed, but only silent, and for less than the node time-out
    waited: bool = True  # long enough for replicas that have little to catch up with: the others are not waited for


def voters_wanted(nodes: int) -> int:
    """One below three nodes, three below five, else five: more voters lose in waiting what they gain in safety."""
    return 1 if nodes < 3 else 3 if nodes < 5 else 5


def next_config(config: ClusterConfig, view: ProposerView) -> ClusterConfig | None:
    """The configuration to propose next, None when all is well (or nothing can be done)."""
    chains = _without_failed(config, view)
    if chains == config.chains:
        voters = next_voters(config.voters, view)
        if voters != config.voters:
            return config._replace(generation=config.generation + 1, voters=voters, freed=())
    for step in (_repaired, _balanced, _rotated):
        if chains == config.chains:
            chains = step(config.chains, view)
    if chains == config.chains:
        return None
    value = config._replace(generation=config.generation + 1, chains=chains, freed=())
    removed = {name for _, name in config.removed_by(value)}
    return value._replace(freed=tuple(sorted(removed & view.freed)))


def next_voters(voters: tuple[bytes, ...], view: ProposerView) -> tuple[bytes, ...]:
    """One step, a voter less or one more, towards :func:`wanted_voters`.  Never a set that could not decide now.

    A failed voter goes before another comes: of three with one dead, both others are needed to decide; of the two that
    stay, the first alone decides.  A living voter that leaves the cluster stays until its successor is there.
    """
    wanted = wanted_voters(voters, view)
    able = set(view.usable) | {voter for voter in voters if voter in view.leaving and voter not in view.failed}
    surplus = [voter for voter in reversed(voters) if voter not in wanted]
    missing = [node for node in wanted if node not in voters]
    failed = [voter for voter in surplus if voter in view.failed]
    if failed or (surplus and not missing):
        goes = min(failed or surplus, key=lambda voter: voter not in view.leaving)
        step = tuple(voter for voter in voters if voter != goes)
    elif missing:
        step = (*voters, missing[0])
    else:
        return voters
    return step if majority(step, able) and majority(wanted, able) else voters


def wanted_voters(voters: tuple[bytes, ...], view: ProposerView) -> tuple[bytes, ...]:
    """Keep living voters, in order, then the lowest nodes, then silent voters.  An odd number."""
    kept = [voter for voter in voters if voter not in view.dead]
    silent = [voter for voter in kept if voter in view.failed]
    spare = [node for node in sorted(view.usable, key=lambda node: (view.usable[node], node)) if node not in kept]
    candidates = [*(voter for voter in kept if voter not in silent), *spare, *silent]
    many = min(voters_wanted(view.living + len(silent)), len(candidates))
    return tuple(candidates[:many - 1 + many % 2])  # an even number survives no more failures than one voter less


def _without_failed(config: ClusterConfig, view: ProposerView) -> Chains:
    chains = []
    for shard, chain in enumerate(config.chains):
        if chain.joining and chain.joining in view.failed:
            chain = chain.without(chain.joining)
        for name in chain.members:
            if name in view.failed and _others_hold(shard, chain, name, view):
                chain = chain.without(name)
        chains.append(chain)
    return tuple(chains)


def _others_hold(shard: int, chain: ChainConfig, name: bytes, view: ProposerView) -> bool:
    """Whether another living member holds every acknowledged write; the chain then begins with such a one."""
    rest = [member for member in chain.members if member != name]
    well = [member for member in rest if member not in view.failed]
    if not well or (shard, well[0]) not in view.established:
        return False
    if name in view.briefly:
        holders = sum((shard, member) in view.established for member in well)
        if holders < min(STAYING_MIN, view.living):
            return False
    return (shard, rest[0]) in view.established


def _all_hold(shard: int, chain: ChainConfig, view: ProposerView) -> bool:
    """Whether this step, for order only, gives up nothing that a still unnoticed failure would make necessary."""
    return all((shard, name) in view.established for name in chain.members)


def _repaired(chains: Chains, view: ProposerView) -> Chains:
    """The steps that each chain needs by itself.  Every choice counts in the next."""
    ready = view.waited or all((shard, chain.epoch) in view.caught_up
                               for shard, chain in enumerate(chains) if chain.joining)
    for shard, chain in enumerate(chains):
        if ready or not chain.joining:
            chains = _with(chains, shard, _repaired_one(shard, chain, chains, view))
    return chains


def _repaired_one(shard: int, chain: ChainConfig, chains: Chains, view: ProposerView) -> ChainConfig:
    if chain.joining:
        return chain.promoted() if (shard, chain.epoch) in view.caught_up else chain
    for name in chain.members:
        if name in view.leaving and len(chain.members) > 1 and _all_hold(shard, chain.without(name), view):
            return chain.without(name)
    if len(chain.members) > REPLICAS:
        shorter = chain.without(_surplus(shard, chain, chains, view))
        return shorter if _all_hold(shard, shorter, view) else chain
    staying = [name for name in chain.members if name not in view.leaving]
    spare = _spare(chain, chains, view) if len(staying) < REPLICAS else b""
    return chain.join(spare) if spare else chain


def _spare(chain: ChainConfig, chains: Chains, view: ProposerView) -> bytes:
    """The node that joins: the one with the fewest replicas, of equals the tail of the fewest chains."""
    spare = [node for node in view.usable if node not in chain.members]
    if not spare:
        return b""
    load, tails = _load(chains), _tails(chains)
    return min(spare, key=lambda node: (load[node], tails[node], view.usable[node], node))


def _surplus(shard: int, chain: ChainConfig, chains: Chains, view: ProposerView) -> bytes:
    """The member with the most replicas goes, of equals the one that is the head of the most chains.  Not the tail."""
    load, heads = _load(chains), _heads(chains)
    choice = [name for name in chain.members[:-1] if _others_hold(shard, chain, name, view)] or [chain.tail]
    return max(choice, key=lambda name: (load[name], heads[name] if name == chain.head else 0))


def _balanced(chains: Chains, view: ProposerView) -> Chains:
    """Move replicas from the fullest nodes to the emptiest, as long as that makes the difference smaller."""
    if not view.usable or any(chain.joining for chain in chains):
        return chains
    load, heads = _load(chains), _heads(chains)
    moving: dict[int, bytes] = {}
    while len(moving) < len(chains):
        least = min(view.usable, key=lambda node: (load[node], view.usable[node], node))
        places = [(load[name], heads[name] if name == chain.head else 0, -shard, name)
                  for shard, chain in enumerate(chains) if shard not in moving
                  and len(chain.members) == REPLICAS and least not in chain.members for name in chain.members[:-1]]
        fullest, _, place, name = max(places, default=(0, 0, 0, b""))
        if fullest <= load[least] + 1:
            break
        moving[-place] = least
        heads[name] -= name == chains[-place].head
        load[name] -= 1
        load[least] += 1
    for shard, node in moving.items():
        chains = _with(chains, shard, chains[shard].join(node))
    return chains


def _rotated(chains: Chains, view: ProposerView) -> Chains:
    """Nodes that join become tails, so the first node is the head of everything: some heads go to the end instead.

    Such a chain has one replica less until the end has caught up.  Of three or four nodes any one may be lost, and the
    data is still complete.  From five nodes on, when it may be two, heads and tails spread by the moves alone.
    """
    if not REPLICAS <= len(view.usable) <= REPLICAS + 1 or view.leaving or any(
            chain.joining or len(chain.members) != REPLICAS for chain in chains):
        return chains
    out = chains  # as they will be
    turned: dict[int, bytes] = {}
    for shard in reversed(range(len(chains))):  # shard 0 last: every node watches it
        chain = chains[shard]
        if not _all_hold(shard, chain, view):
            continue
        shorter = chain.without(chain.head)
        node = _spare(shorter, _with(out, shard, shorter), view)
        after = _with(out, shard, shorter._replace(members=(*shorter.members, node), since=()))
        if node and _imbalance(after) < _imbalance(out):
            out = after
            turned[shard] = node
    for shard, node in turned.items():
        chains = _with(chains, shard, chains[shard].without(chains[shard].head).join(node))
    return chains


def _imbalance(chains: Chains) -> int:
    """The imbalance: least when heads are on as many nodes as possible, and tails too."""
    return sum(count * count for roles in (_heads(chains), _tails(chains)) for count in roles.values())


def _with(chains: Chains, shard: int, chain: ChainConfig) -> Chains:
    return (*chains[:shard], chain, *chains[shard + 1:])


def _load(chains: Chains) -> Counter[bytes]:
    return Counter(name for chain in chains for name in (*chain.members, chain.joining) if name)


def _heads(chains: Chains) -> Counter[bytes]:
    return Counter(chain.head for chain in chains)


def _tails(chains: Chains) -> Counter[bytes]:
    """Of the chains as they will be."""
    return Counter(chain.joining or chain.tail for chain in chains)
