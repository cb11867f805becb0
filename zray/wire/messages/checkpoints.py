"""Actors with checkpoints: numbered calls, their replay, and copies of checkpoints.  Codes 91-99 and 176-182.

A *number* counts the calls of one caller to one actor.  A *start* counts the calls that the actor has started, over all
its lives.  docs/internals/checkpoints.md has the protocol.
"""

from __future__ import annotations

from zray.wire.messages.base import Message, message


@message(91)
class PushLogged(Message):
    """Caller -> actor: as PushCalls; call i has the number ``numbers[i]``.

    The caller waits for no reply to its calls up to number ``ended`` any more.
    """

    actor: bytes
    life: int
    first: int
    calls: list
    numbers: list
    ended: int


@message(92)
class LoggedDone(Message):
    """Actor -> caller: as CallsDone; ``starts[i]`` is the start of the i-th reply, 0 for a call that never started.

    ``order``: [start, caller, number, ...] of earlier calls of other callers, as far as this caller may not know them.
    """

    actor: bytes
    life: int
    ends: list
    starts: list
    order: list


@message(93)
class OfferCalls(Message):
    """Caller -> new life of an actor: calls that no checkpoint covers, and the order of starts that the caller knows.

    A call is ``[number, start or 0, task id, attempt, method name, args value, number of returns, extra | None]``;
    ``order`` as in LoggedDone.  With ``more``, further messages follow.
    """

    actor: bytes
    life: int
    calls: list
    order: list
    ended: int
    more: bool


@message(94)
class AskCheckpoint(Message):
    """Caller -> actor: the caller keeps too many bytes of calls."""

    actor: bytes
    life: int
    ended: int


@message(95)
class CallsCovered(Message):
    """Actor -> caller: a stored checkpoint covers the starts up to ``start``."""

    actor: bytes
    life: int
    start: int


@message(96)
class CallerSeen(Message):
    """Actor worker -> its node -> home: a process calls the actor for the first time."""

    actor: bytes
    life: int
    caller: bytes


@message(97)
class CallerNews(Message):
    """Home -> actor worker: the home has registered that caller, or knows that it has ended."""

    actor: bytes
    life: int
    caller: bytes
    ended: bool


@message(98)
class SaveCheckpoint(Message):
    """Actor worker -> its node -> home: a checkpoint is written, and covers the starts up to ``start``.

    ``place``: {"file", "bytes"} in the session's folder of this node, which adds "holders", the nodes that have it; or
    {"url"} in the user's folder.
    """

    actor: bytes
    life: int
    start: int
    place: dict


@message(99)
class CheckpointSaved(Message):
    """Home -> actor worker: the next life will begin with the checkpoint that covers ``start``."""

    actor: bytes
    life: int
    start: int


@message(176)
class StateLost(Message):
    """Actor worker -> its node -> home: the state cannot be saved or restored, so the actor ends."""

    actor: bytes
    life: int
    reason: str


@message(177)
class FetchCheckpoint(Message):
    """Worker -> node: copy this file from one of its holders; answered by CheckpointHere."""

    file: str
    holders: list


@message(178)
class CheckpointHere(Message):
    """Node -> worker: the file is in the session's folder, or no holder has it."""

    file: str
    found: bool


@message(179)
class ReadCheckpoint(Message):
    """Node -> node: send this file from ``offset``; answered by one CheckpointPart."""

    file: str
    offset: int


@message(180)
class CheckpointPart(Message):
    """Node -> node: bytes of a file of ``total`` bytes; -1: the sender does not have the file.

    A part that was not asked for is a copy to keep: answered by CheckpointKept.
    """

    file: str
    offset: int
    total: int
    data: bytes
    asked: bool


@message(181)
class CheckpointKept(Message):
    """Node -> node: the part was written, up to ``offset``; -1: it could not be written."""

    file: str
    offset: int


@message(182)
class DropCheckpoints(Message):
    """Node -> node: remove the files of this actor's checkpoints before ``keep``, or all; with ``only``, that file."""

    actor: bytes
    keep: str
    only: str = ""
