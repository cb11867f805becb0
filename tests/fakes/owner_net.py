"""The transport of an owner's machines (zray.owner.records.Net) in tests."""

from __future__ import annotations

from collections import deque
from typing import Any


class RecordingNet:
    """Keeps sent messages; connections always exist."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []

    def send(self, peer: bytes, message: Any) -> None:
        self.sent.append((peer, message))

    def connect(self, peer: bytes, endpoint: str) -> None:
        pass

    def disconnect(self, peer: bytes) -> None:
        pass

    def to(self, peer: bytes, kind: type) -> list[Any]:
        """The messages of this kind that were sent to ``peer``."""
        return [message for other, message in self.sent if other == peer and type(message) is kind]

    def take(self, kind: type) -> list[tuple[bytes, Any]]:
        """Remove and return the messages of this kind, as (peer, message)."""
        found = [(peer, message) for peer, message in self.sent if type(message) is kind]
        self.sent = [pair for pair in self.sent if type(pair[1]) is not kind]
        return found


class ChannelNet:
    """Sends into ``channels``, which the test delivers: (source, target, *lane) -> messages, first in first out."""

    def __init__(self, channels: dict[Any, deque[Any]], source: bytes, *lane: str) -> None:
        self.channels, self.source, self.lane = channels, source, lane

    def send(self, peer: bytes, message: Any) -> None:
        self.channels.setdefault((self.source, peer, *self.lane), deque()).append(message)

    def connect(self, peer: bytes, endpoint: str) -> None:
        pass

    def disconnect(self, peer: bytes) -> None:
        pass
