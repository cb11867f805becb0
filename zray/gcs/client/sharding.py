"""Which shard holds a key.  Only the client uses it: replicas take any key.

Some tables stay together in shard 0: those that every node watches or lists as a whole, or that need one order (nodes,
jobs, names, placement groups, allotted numbers).  The tables that grow with the work (actors, functions, locations and
owners of objects, user keys, packages) are spread by a hash of the whole key.
"""

from __future__ import annotations

from zlib import crc32

from zray.gcs.replica.tables import ACTORS, FUNCTIONS, KV, LOCATIONS, OWNERS, PACKAGES

# Chains of a cluster, from its first node to its last: a key never moves between shards, only shards between nodes.
# Eight chains of three replicas give 24 nodes something to serve, and eight of them a head's work and a tail's, which
# is where the work is; a cluster of some hundred nodes still has one control store node in four.  More would cost
# what every cluster pays: each shard is a line in every heartbeat, a part of every configuration, a message in each
# list and watch of a spread table, and with a persistent directory up to one sync a turn.  A multiple of this number
# can split each shard in place, should eight heads ever be too few (credis, and Ray's Redis, hash to fixed shards too).
SHARDS = 8
SPREAD = (ACTORS, FUNCTIONS, LOCATIONS, OWNERS, KV, PACKAGES)


def shard_of(key: bytes, shards: int) -> int:
    """The shard, of ``shards``, that holds ``key``."""
    return crc32(key) % shards if shards > 1 and key[:key.find(b"/") + 1] in SPREAD else 0


def shards_of(prefix: bytes, shards: int) -> range:
    """The shards that may hold keys with ``prefix``."""
    table = prefix[:prefix.find(b"/") + 1]
    spread = table in SPREAD if table else any(name.startswith(prefix) for name in SPREAD)
    return range(shards if spread else 1)
