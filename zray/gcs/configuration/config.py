"""ChainConfig: which replicas form the chain in one epoch, from head to tail.

A chain cannot elect its own configuration: a decider (the paper's master) hands every replica the result.  A decider
may take one of three steps, each the next epoch:

    without(m)     m has failed (or must be treated so): its neighbours close up
    join(m)        m copies the state of the tail, which goes on serving
    promoted()     the joining replica becomes the tail

``since`` holds the epoch from which each member belongs to the chain without a break.  A replica that missed some
epochs can tell from it whether it still holds a prefix of the chain's history, or a branch that was cut off.
"""

from __future__ import annotations

from collections.abc import Container
from functools import cached_property

from zray.base.named_tuples import NamedTuple


class ChainConfig(NamedTuple):
    """``members`` from head to tail; ``since[i]`` the epoch member i joined in; ``joining`` b"" or the next tail."""

    epoch: int
    members: tuple[bytes, ...]
    since: tuple[int, ...] = ()
    joining: bytes = b""
    joining_since: int = 0

    @classmethod
    def first(cls, *members: bytes) -> ChainConfig:
        """A chain of replicas that are all empty (or all hold the same snapshot)."""
        return cls(1, members, (1,) * len(members))

    @property
    def head(self) -> bytes:
        return self.members[0]

    @property
    def tail(self) -> bytes:
        return self.members[-1]

    @property
    def reads_freely(self) -> bool:
        """Whether the tail needs no lease: no other replica could go on without it.

        A joining replica could, once it is promoted; the tail may not hear of that before it is removed.
        """
        return len(self.members) == 1 and not self.joining

    def since_of(self, name: bytes) -> int:
        """The epoch from which ``name`` takes part; 0 when it does not."""
        if name in self.members:
            return self.since[self.members.index(name)] if self.since else 1
        return self.joining_since if name and name == self.joining else 0

    def predecessor(self, name: bytes) -> bytes:
        """The member that ``name`` receives updates from, b"" for the head and for strangers."""
        if name and name == self.joining:
            return self.tail
        place = self.members.index(name) if name in self.members else 0
        return self.members[place - 1] if place else b""

    def successor(self, name: bytes) -> bytes:
        """The member that ``name`` sends updates to: the next one, for the tail the joining replica, or b""."""
        if name not in self.members:
            return b""
        place = self.members.index(name) + 1
        return self.members[place] if place < len(self.members) else self.joining

    def without(self, name: bytes) -> ChainConfig:
        """The chain after ``name`` failed."""
        epoch = self.epoch + 1
        if name == self.joining:
            return self._replace(epoch=epoch, joining=b"", joining_since=0)
        kept = [(m, s) for m, s in zip(self.members, self._since(), strict=True) if m != name]
        if len(kept) != len(self.members) - 1 or not kept:
            raise ValueError(f"cannot remove {name.hex()} from a chain of {len(self.members)}")
        return self._replace(epoch=epoch, members=tuple(m for m, _ in kept), since=tuple(s for _, s in kept))

    def join(self, name: bytes) -> ChainConfig:
        """The chain while ``name`` catches up behind the tail."""
        if not name or self.joining or name in self.members:
            raise ValueError(f"{name.hex()} cannot join: one new replica at a time")
        return self._replace(epoch=self.epoch + 1, joining=name, joining_since=self.epoch + 1)

    def promoted(self) -> ChainConfig:
        """The chain once the joining replica has caught up."""
        if not self.joining:
            raise ValueError("no replica is joining")
        return ChainConfig(self.epoch + 1, (*self.members, self.joining), (*self._since(), self.joining_since))

    def _since(self) -> tuple[int, ...]:
        return self.since or (1,) * len(self.members)


class _ClusterFields(NamedTuple):
    generation: int
    voters: tuple[bytes, ...]
    chains: tuple[ChainConfig, ...]
    freed: tuple[bytes, ...] = ()


class ClusterConfig(_ClusterFields):
    """The contents of the register: the voters, which decide the next configuration, and the chain of every shard.

    ``freed``: nodes that this configuration takes out of a chain and that certainly answer no reads any more, as their
    processes have ended or reported so.  No voter has to wait for their leases.
    """

    @classmethod
    def first(cls, node: bytes, shards: int = 1) -> ClusterConfig:
        """A cluster of one node."""
        return cls(1, (node,), (ChainConfig.first(node),) * shards)

    @cached_property
    def members(self) -> frozenset[bytes]:
        """Nodes that hold a replica which serves or may have to."""
        return frozenset(name for chain in self.chains for name in chain.members)

    @cached_property
    def involved(self) -> frozenset[bytes]:
        """Nodes that have a part in the control store: silence of these is noticed sooner."""
        return self.members.union(self.voters, (chain.joining for chain in self.chains if chain.joining))

    @cached_property
    def reading(self) -> frozenset[bytes]:
        """Tails that need promises to read."""
        return frozenset(chain.tail for chain in self.chains if not chain.reads_freely)

    def tails_of(self, name: bytes) -> frozenset[int]:
        """Shards of which ``name`` is the tail."""
        return frozenset(shard for shard, chain in enumerate(self.chains) if chain.tail == name)

    def may_become(self, value: ClusterConfig) -> bool:
        """Whether ``value`` is a next generation: of the same shards, with at most one voter more or one less."""
        return (value.generation == self.generation + 1 and len(value.chains) == len(self.chains)
                and len(set(self.voters) ^ set(value.voters)) <= 1)

    def removed_by(self, value: ClusterConfig) -> set[tuple[int, bytes]]:
        """(shard, member) of each member of a chain here that is no member of that chain in ``value``."""
        return {(shard, name) for shard, (mine, other) in enumerate(zip(self.chains, value.chains, strict=False))
                for name in mine.members if name not in other.members}

    def pack(self) -> list:
        return [self.generation, list(self.voters), [[c.epoch, list(c.members), list(c.since), c.joining,
                c.joining_since] for c in self.chains], list(self.freed)]

    @classmethod
    def parse(cls, packed: list) -> ClusterConfig | None:
        """What :meth:`pack` wrote; None when ``packed`` is anything else."""
        try:
            generation, voters, chains, freed = packed
            config = cls(generation, tuple(voters), tuple(
                ChainConfig(epoch, tuple(members), tuple(since), joining, joining_since)
                for epoch, members, since, joining, joining_since in chains), tuple(freed))
        except (TypeError, ValueError):
            return None
        numbers = [config.generation, *(n for c in config.chains for n in (c.epoch, c.joining_since, *c.since))]
        names = [*config.voters, *config.freed, *(n for c in config.chains for n in (*c.members, c.joining))]
        if not all(type(n) is int and n >= 0 for n in numbers) or not all(type(n) is bytes for n in names):
            return None
        whole = config.voters and config.chains and len(set(config.voters)) == len(config.voters) and all(
            c.members and len(set(c.members)) == len(c.members) == len(c.since) for c in config.chains)
        return config if whole else None


def majority(voters: tuple[bytes, ...], agreed: Container[bytes]) -> bool:
    """More than half of the voters; of an even number half is enough with the first of them, whose vote counts more.

    Any two majorities of the same voters have one in common, and no more is needed (Gifford, "Weighted voting for
    replicated data", 1979).  Voters come and go one at a time, so every change passes through an even number: without
    this rule, two voters could go on less often than one, and four less often than three.
    """
    many = sum(1 for voter in voters if voter in agreed)
    return 2 * many > len(voters) or (2 * many == len(voters) > 0 and voters[0] in agreed)
