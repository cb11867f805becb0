"""The actor where the ranks of a group meet.

Each call of a collective operation has a number, the same on every rank.  The hub holds the parts of a call until the
last rank has come, and gives each rank what is for it.  Large parts are references: the hub does not touch their data.

    call:  waiting --> complete (all ranks came) --> forgotten when the last rank has its parts
              |
              +------> failed (ranks disagree, one did not come in time, one died): so fails every later call

Each rank leaves a mark here, a reference that its process owns and that is ready when the rank leaves.  The reference
is lost with the process: so every call fails at once, with the rank in its error, when the process of a rank dies.

A group whose first meeting, that of the inits, has failed is over at once: the hub lets go, and its name gets free.
"""

from __future__ import annotations

import asyncio
from typing import Any

from zray.base.errors import OwnerDiedError, RayActorError

__all__ = ["CollectiveHub", "HUB_CALLS_MAX"]

# Calls that may wait in a hub at a time, at least.
HUB_CALLS_MAX = 1000


class _Meeting:
    """One call of an operation: what each rank brought."""

    __slots__ = ("done", "failure", "left", "parts", "whats")

    def __init__(self) -> None:
        self.parts: dict[int, Any] = {}
        self.whats: dict[int, str] = {}
        self.done = asyncio.Event()
        self.failure = ""
        self.left = 0  # ranks that took their parts


class CollectiveHub:
    """The meeting point of one group."""

    def __init__(self, name: str, world_size: int, ranks: dict[str, int], timeout_s: float):
        self.name = name
        self.timeout_s = timeout_s  # of a group that its driver declared
        self.world_size = world_size
        self.ranks = ranks  # by actor id: of a group that its driver declared
        self.joined: set[int] = set()
        self.has_left = False
        self.failure = ""
        self.maker = -1  # the rank whose process made this actor: the actor ends with it
        self.handle: Any = None  # of this actor, held by its creator, for the other ranks
        self.meetings: dict[Any, _Meeting] = {}
        self.present: dict[int, asyncio.Event] = {}  # set when the rank leaves
        self.watches: dict[int, asyncio.Future] = {}

    async def stay(self, rank: int) -> None:
        """Return when the rank leaves; its process owns the result, which is the mark of the rank."""
        await self.present.setdefault(rank, asyncio.Event()).wait()

    async def watch(self, rank: int, mark: list[Any]) -> None:
        """Fail the group when the process that owns the mark dies; or, before it has a mark, the actor that sets it."""
        before = self.watches.get(rank)
        self.watches[rank] = asyncio.ensure_future(self._watch(rank, mark[0]))
        if before is not None:
            before.cancel()

    async def _watch(self, rank: int, mark: Any) -> None:
        try:
            await mark
        except (OwnerDiedError, RayActorError) as error:
            self._let_go(rank)
            if not self.failure:
                self._fail(f"the process of rank {rank} of the group {self.name!r} has died "
                           f"({type(error).__name__}): destroy the group in the other ranks and make it again")

    def _let_go(self, rank: int) -> None:
        """End the rank's ``stay``: this actor cannot end before its calls have."""
        self.present.setdefault(rank, asyncio.Event()).set()

    async def about(self, actor: str) -> tuple[int, int, float]:
        """``(world size, rank, time-out in seconds)`` of an actor; rank -1 where it was not declared."""
        return self.world_size, self.ranks.get(actor, -1), self.timeout_s

    async def join(self, rank: int, world_size: int, handle: Any, timeout_s: float) -> tuple[str, Any]:
        """Wait for all ranks: ``(what is wrong, (a handle that keeps this actor alive, the rank that made it))``.

        What is wrong is "ended" for an old group.
        """
        if self.has_left or self.ranks:
            return ("ended" if self.has_left else f"the group {self.name!r} was declared by its driver already"), None
        if world_size != self.world_size:
            return f"rank {rank} has world_size {world_size}, and other ranks {self.world_size}", None
        if rank in self.joined:
            return f"rank {rank} of the group {self.name!r} is taken by another process", None
        self.joined.add(rank)
        if handle is not None:
            self.handle, self.maker = handle, rank
        del handle  # self.handle alone keeps this actor alive: a time-out below leaves this frame in a cycle
        failure, _ = await self.meet(("join",), rank, "init_collective_group", None, timeout_s)
        if failure:
            self.has_left = True
            self.handle = None
            return failure, None
        return "", (self.handle, self.maker)

    async def meet(self, number: Any, rank: int, what: str, part: Any, timeout_s: float) -> tuple[str, list[Any]]:
        """Bring the part of a rank, wait for the others': ``(what is wrong, the parts for this rank, by rank)``.

        A part is None, ``(None, part)`` for every rank, or ``(rank, part)`` for one, or ``("each", [part, ...])``.
        """
        if self.failure:
            return self.failure, []
        meeting = self.meetings.setdefault(number, _Meeting())
        meeting.parts[rank] = part
        meeting.whats[rank] = what
        if len(meeting.parts) == self.world_size:
            if len(set(meeting.whats.values())) > 1:
                said = "; ".join(f"rank {rank}: {what}" for rank, what in sorted(meeting.whats.items()))
                self._fail(f"the ranks of the group {self.name!r} made different calls: {said}")
            meeting.done.set()
        else:
            await self._wait(meeting, self._missing, what, timeout_s)
        if meeting.failure:
            return meeting.failure, []
        parts = [_for_rank(meeting.parts[other], rank) for other in range(self.world_size)]
        meeting.left += 1
        if meeting.left == self.world_size:
            del self.meetings[number]
        return "", parts

    async def pass_on(self, number: tuple[int, int, int], rank: int, what: str, part: Any,
                      timeout_s: float) -> tuple[str, Any]:
        """The two ranks of a send and its recv meet: ``(what is wrong, the part of the sender)``."""
        if self.failure:
            return self.failure, None
        meeting = self.meetings.setdefault(number, _Meeting())
        meeting.parts[rank] = part
        meeting.whats[rank] = what
        if len(meeting.parts) == 2:
            del self.meetings[number]
            meeting.done.set()
        else:
            await self._wait(meeting, lambda meeting: [other for other in number[:2] if other not in meeting.parts],
                             "send" if rank == number[0] else "recv", timeout_s)
        if meeting.failure:
            return meeting.failure, None
        if len(set(meeting.whats.values())) > 1:
            return f"rank {number[0]} sends {meeting.whats[number[0]]}, rank {number[1]} receives " \
                   f"{meeting.whats[number[1]]}", None
        return "", meeting.parts[number[0]]

    async def _wait(self, meeting: _Meeting, missing: Any, what: str, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(meeting.done.wait(), timeout_s)
        except TimeoutError:
            if not meeting.done.is_set():
                self._fail(f"rank {', '.join(map(str, missing(meeting)))} of the group {self.name!r} did not call "
                           f"{what.partition('(')[0]} within {timeout_s:g} s. Look whether its process lives, or pass "
                           "a longer gloo_timeout (ms); then destroy the group and make it again")

    def _missing(self, meeting: _Meeting) -> list[int]:
        return [rank for rank in range(self.world_size) if rank not in meeting.parts]

    def _fail(self, failure: str) -> None:
        self.failure = failure
        for number, meeting in list(self.meetings.items()):
            if not meeting.done.is_set():  # ranks that complete a call get its parts, whatever comes next
                meeting.failure = failure
                meeting.done.set()
                del self.meetings[number]

    async def leave(self, rank: int) -> None:
        """A rank destroys the group: it takes no further part."""
        self.has_left = True
        self.handle = None
        for each in [rank] if rank >= 0 else range(self.world_size):
            self._let_go(each)
        self._fail(f"rank {rank} has destroyed the group {self.name!r}")

    async def release(self) -> None:
        """All ranks hold the handle now: this actor ends with the last of them."""
        self.handle = None


def _for_rank(part: Any, rank: int) -> Any:
    if part is None:
        return None
    to, value = part
    if to == "each":
        return value[rank]
    return value if to is None or to == rank else None
