"""The control store: requests, watches, the chain.  Codes 140-159.  ``shard``: which of the chains is meant."""

from __future__ import annotations

from typing import Any

from zray.wire.messages.base import Message, message


@message(140)
class GcsRequest(Message):
    """Client -> head (updates) or tail (reads): request ``number`` of the sending incarnation; repeats are harmless.

    ``op``: an operation of zray.gcs.replica.tables.  ``acked``: the client wants no more replies to numbers below this.
    """

    number: int
    acked: int
    op: list
    shard: int = 0


@message(141)
class GcsReply(Message):
    """Replica -> client: the answer to a request; ``error`` is '' or starts with an error code of
    zray.gcs.replica.tables."""

    number: int
    error: str
    result: Any
    shard: int = 0


@message(142)
class GcsRedirect(Message):
    """Replica -> client: it does not play that role in epoch ``epoch``; ``members`` from head to tail do."""

    number: int  # of the request, 0 for a watch
    epoch: int
    members: list[bytes]
    shard: int = 0


@message(143)
class GcsWatch(Message):
    """Client -> tail: send the changes of keys with ``prefix`` after version ``seen`` (-1: the present state first).

    Sent to subscribe, to acknowledge (credit), and now and then to find out about a lost message or a new tail.
    """

    watch: int
    prefix: bytes
    seen: int
    shard: int = 0


@message(144)
class GcsUnwatch(Message):
    watch: int
    shard: int = 0


@message(145)
class GcsEvents(Message):
    """Tail -> client: all changes of the watch in ``(previous, version]``, as ``[[version, key, value | None], ...]``.

    ``reset``: the changes since ``previous`` are no longer known; the list is the whole state at ``version`` instead.
    """

    watch: int
    previous: int
    version: int
    reset: bool
    changes: list
    shard: int = 0


@message(150)
class ChainUpdates(Message):
    """Predecessor -> successor: updates ``first ..`` as ``[[client, number, acked, op], ...]``; the sender has all
    up to ``last``."""

    epoch: int
    first: int
    entries: list
    last: int
    shard: int = 0


@message(151)
class ChainAck(Message):
    """Successor -> predecessor, cumulative: it has all up to ``received``, the tail has processed up to ``committed``.

    ``sync``: answer this even if there is nothing new (sent until the successor hears its predecessor in this epoch).
    """

    epoch: int
    received: int
    committed: int
    sync: bool = False
    shard: int = 0


@message(152)
class ChainSnapshot(Message):
    """Predecessor -> new successor: part ``index`` of ``count`` of the state after update ``sequence``."""

    epoch: int
    sequence: int
    index: int
    count: int
    chunk: bytes
    shard: int = 0


@message(153)
class ChainFetch(Message):
    """New successor -> predecessor: send part ``index`` of that snapshot."""

    epoch: int
    sequence: int
    index: int
    shard: int = 0
