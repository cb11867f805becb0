"""The pickling of maps in a simulated process: columns of numbers, with msgpack in the place of pickle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgpack

from zray.sim.failure import Failure, Lost
from zray.wire import messages as m

READ_S = 0.001  # from a store


class _Process(Protocol):
    def read_stored(self, value: list[Any]) -> bytes: ...
    def later(self, seconds: float, action: Callable[..., None], *args: Any) -> None: ...
    def stir(self) -> None: ...
    def references_to(self, oids: Sequence[bytes]) -> bytes: ...


class SimColumns:
    """The Columns of a simulated core process."""

    none: bytes = msgpack.packb(0)  # as any number

    def __init__(self, process: _Process) -> None:
        self._process = process

    def pack_items(self, items: Sequence[Any]) -> tuple[Any, list[Any] | None]:
        """``items`` of a map are a flag and a number each.  The flag is the same for all, and is packed once."""
        return msgpack.packb([items[0][0], [item for _, item in items]]), None

    def pack_call(self, item: Any, star: bool) -> tuple[Any, list[Any]]:
        _, number = item
        return msgpack.packb([["raise" if number % 32 == 0 else "value", number, 0.0, []], []]), []

    def pick(self, column: Any, position: int, name: str) -> tuple[Any, list[Any]]:
        try:
            wire = column if type(column) is bytes else self._process.read_stored(column)
        except Lost:
            return [m.FAILED, "object_lost", {"reason": "its node died"}], []
        except Failure as failure:
            return self.failure(failure, name), []
        return msgpack.unpackb(wire)[position], []

    def pick_later(self, column: Any, position: int, name: str, then: Callable[[Any, list[Any]], None]) -> None:
        def picked() -> None:
            then(*self.pick(column, position, name))
            self._process.stir()

        self._process.later(READ_S, picked)

    def references(self, oids: Sequence[bytes]) -> bytes:
        return self._process.references_to(oids)

    def failure(self, error: Exception, name: str) -> list[Any]:
        root = error.root if isinstance(error, Failure) else "unexpected"
        return [m.FAILED, "task_error", {"root": root}]
