"""Coalesce chain messages: the messages of a replica to one neighbour in a turn become one.

    updates 5..5, 6..6, 7..9        one message with 5..9
    acks 5, 6, 9                    the last: acknowledgements are cumulative

A turn's messages leave together at its end anyway, so none gets later.  Each message costs every replica some 40 us, an
update inside one some 5.  Different epochs, gaps and repeats are left as they are.  Pure.
"""

from __future__ import annotations

from typing import Any

from zray.wire.messages import ChainAck, ChainUpdates

Out = list[tuple[bytes, Any]]


class Coalescer:
    """``add`` messages in order; ``take`` those to send."""

    def __init__(self) -> None:
        self._out: list[list[Any]] = []  # [peer, message]
        self._last: dict[tuple[bytes, type, int], list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._out)

    def add(self, peer: bytes, message: ChainUpdates | ChainAck) -> None:
        key = (peer, type(message), message.shard)
        held = self._last.get(key)
        if held is not None:
            merged = _merged(held[1], message)
            if merged is not None:
                held[1] = merged
                return
        self._last[key] = entry = [peer, message]
        self._out.append(entry)

    def take(self) -> Out:
        out: Out = [(peer, message) for peer, message in self._out]
        self._out, self._last = [], {}
        return out


def _merged(earlier: Any, later: Any) -> Any:
    """One message with the contents of both, None when there is none."""
    if earlier.epoch != later.epoch:
        return None
    if type(later) is ChainAck:
        if later.received < earlier.received or later.committed < earlier.committed:
            return None
        return later._replace(sync=later.sync or earlier.sync)
    if later.first != earlier.first + len(earlier.entries):
        return None
    return later._replace(first=earlier.first, entries=earlier.entries + later.entries)
