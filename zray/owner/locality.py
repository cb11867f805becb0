"""Finds the node that holds most bytes of a task's arguments.  Pure.

If most bytes of the stored arguments are on one node, the task gets a scheduling key of its own.  The strategy of
this key names the node and the bytes to move otherwise, rounded up to a power of two so that keys stay few.
zray.sched.cluster.spillback looks for a worker there first, for as long as moving the bytes would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.owner.records import Key, Task
from zray.wire.messages import STORED

# Below this a transfer takes no longer than one chunk's round trip between daemons, so waiting does not pay.
LOCALITY_BYTES_MIN = 100_000
NODE = 5  # position in a stored value: [STORED, offset, nbytes, generation, oid, node]
NBYTES = 2


def preferred(values: Iterable[Any], home: bytes) -> tuple[bytes, int] | None:
    """(node, bytes rounded up) where these values should be read; None when any node is as good."""
    held: dict[bytes, int] = {}
    for value in values:
        if type(value) is list and value[0] == STORED:
            held[value[NODE]] = held.get(value[NODE], 0) + value[NBYTES]
    if not held:
        return None
    node = max(held, key=lambda n: (held[n], n == home))
    gain = held[node] - held.get(home, 0)
    if node == home or gain < LOCALITY_BYTES_MIN:
        return None
    return node, 1 << (gain - 1).bit_length()


def near_arguments(task: Task, home: bytes, has_ended: Callable[[bytes], bool]) -> tuple[bytes, int] | None:
    """``preferred`` for the arguments of a task that are ready; None when its strategy, or a death, forbids it."""
    strategy = task.key.strategy
    if strategy.get("kind", "default") != "default" or "locality" in strategy:
        return None
    found = preferred([task.args, *(record.value for record in task.deps or ())], home)
    return None if found is None or has_ended(found[0]) else found


def key_near_arguments(task: Task, home: bytes, has_ended: Callable[[bytes], bool],
                       key_for: Callable[[Any, dict, dict, dict, str], Key]) -> Key:
    """The task's key, or a like key that prefers the node with most bytes of the arguments."""
    key: Key = task.key
    found = near_arguments(task, home, has_ended)
    if found is None:
        return key
    node, nbytes = found
    strategy = {**key.strategy, "locality": node, "bytes": nbytes}
    return key_for((key.number, node, nbytes), key.demand, key.env, strategy, key.name)
