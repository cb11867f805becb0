"""One life of the actor in a worker process: its calls, its kept replies, its end (pure).

    up --push--> a call starts, or waits for room in its concurrency group
       --SIGTERM--> draining: running calls may end, no further call starts
       --exit_actor, sys.exit, __ray_terminate__--> leaving: no further call starts
       --asked to exit (WorkerExit)--> pushed calls still run

A sync actor has no groups: its calls go through the TaskQueue.  All methods are called under the loop's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from zray.handles.options import ASYNC_MAX_CONCURRENCY
from zray.wire.messages import ActorInit
from zray.worker.queue import TASK_ATTEMPT, TASK_ID, Entry, ServedLease
from zray.worker.run.results import identity

# Replies kept for each caller, in case it pushes a call again; in batches and in bytes.
KEPT_BATCHES = 64
KEPT_BYTES = 1024 * 1024
Identity = tuple[bytes, int]  # task id, attempt


def sizes_of(spec: dict[str, Any]) -> dict[str, int]:
    """Sizes of an actor's concurrency groups, "" is the default group; empty if calls run one after the other."""
    sizes = dict(spec.get("concurrency_groups") or {})
    sizes[""] = spec.get("max_concurrency") or (ASYNC_MAX_CONCURRENCY if spec.get("is_async") else 1)
    return sizes if spec.get("is_async") or len(sizes) > 1 or sizes[""] > 1 else {}


class CallGroup:
    """A concurrency group: up to ``size`` calls run side by side, and they start in order of arrival."""

    __slots__ = ("name", "size", "running", "waiting")

    def __init__(self, name: str, size: int):
        self.name = name
        self.size = size
        self.running: dict[Identity, list[Any]] = {}
        self.waiting: deque[Entry] = deque()

    def put(self, entry: Entry) -> bool:
        """Add a call; True when it starts now, else it waits for room."""
        if len(self.running) < self.size:
            task = entry[2]
            self.running[task[TASK_ID], task[TASK_ATTEMPT]] = task
            return True
        self.waiting.append(entry)
        return False

    def end(self, task: list[Any]) -> Entry | None:
        """A call has ended; returns the call that starts in its place."""
        del self.running[task[TASK_ID], task[TASK_ATTEMPT]]
        if not self.waiting:
            return None
        entry = self.waiting.popleft()
        task = entry[2]
        self.running[task[TASK_ID], task[TASK_ATTEMPT]] = task
        return entry

    def take(self, wanted: Identity) -> Entry | None:
        """Take out a waiting call, by a search: cancellations are rare."""
        for position, entry in enumerate(self.waiting):
            if identity(entry[2]) == wanted:
                del self.waiting[position]
                return entry
        return None

    def check(self) -> None:
        assert len(self.running) <= self.size, f"{self.name!r} runs more than {self.size} calls"
        assert not self.waiting or len(self.running) == self.size, f"calls of {self.name!r} wait although it has room"
        assert not any(identity(entry[2]) in self.running for entry in self.waiting), "a call runs and waits"


class ActorLife:
    """The calls of one life."""

    __slots__ = ("id", "number", "class_name", "groups", "group_of", "leaving", "may_restart", "code", "draining",
                 "refused")

    def __init__(self, message: ActorInit):
        self.id = message.actor
        self.number = message.life
        self.class_name: str = message.spec.get("class_name") or ""
        self.groups: dict[str, CallGroup] = {}  # empty: one call after the other
        self.group_of: Callable[[list[Any]], str] | None = None
        self.leaving: str | None = None
        self.may_restart = False  # it ends by sys.exit or SIGTERM
        self.code = 0
        self.draining = False
        self.refused = 0

    def run_side_by_side(self, sizes: dict[str, int], group_of: Callable[[list[Any]], str]) -> None:
        """The actor is threaded or async.  ``group_of(call)``: its group; an unknown group means the default one."""
        self.groups = {name: CallGroup(name, size) for name, size in sizes.items()}
        self.group_of = group_of

    def put(self, entries: list[Entry]) -> list[tuple[CallGroup, Entry]]:
        """Add calls of an actor with groups; returns the calls that start now."""
        group_of, groups = self.group_of, self.groups
        assert group_of is not None
        started = []
        for entry in entries:
            group = groups.get(group_of(entry[2])) or groups[""]
            if group.put(entry):
                started.append((group, entry))
        return started

    def take_waiting(self, wanted: Identity) -> Entry | None:
        """Take a cancelled call that waits for room out of its group."""
        for group in self.groups.values():
            entry = group.take(wanted)
            if entry is not None:
                return entry
        return None

    def running(self) -> Iterator[list[Any]]:
        """Calls that run side by side."""
        for group in self.groups.values():
            yield from group.running.values()

    def drop_waiting(self) -> None:
        """Drop all calls that have not started."""
        for group in self.groups.values():
            group.waiting.clear()

    # ---- replies that may be needed again

    def keep(self, lease: ServedLease, ends: list[Any]) -> None:
        """Keep sent replies, in case the caller pushes their calls again."""
        if sum(len(result) for result in ends[1::2] if type(result) is bytes) > KEPT_BYTES // KEPT_BATCHES:
            return
        if lease.kept is None:
            lease.kept = deque(maxlen=KEPT_BATCHES)
        lease.kept.append(ends)

    def kept(self, lease: ServedLease, sequences: range) -> list[Any]:
        """[sequence, reply, ...] of these calls, as far as their replies are kept."""
        again: list[Any] = []
        for ends in lease.kept or ():
            pairs = iter(ends)
            for sequence, result in zip(pairs, pairs, strict=True):
                if sequence in sequences:
                    again += (sequence, result)
        return again

    def check(self) -> None:
        for group in self.groups.values():
            group.check()
