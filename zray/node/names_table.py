"""The requests of a NodeMachine to the control store (zray.node.names).  Pure."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Protocol


class Names(Protocol):
    """The part of the control store that actors need; answers may come later."""

    def fence(self, nodes: Iterable[bytes], then: Callable[[], None]) -> None:
        """``then()`` when these dead nodes can write no row any more: lists asked for later have their last ones."""

    def claim(self, namespace: str, name: str, actor: bytes, then: Callable[[bytes], None]) -> None: ...

    def release(self, namespace: str, name: str, actor: bytes) -> None: ...

    def find(self, namespace: str, name: str, then: Callable[[bytes], None]) -> None: ...

    def record_actor(self, actor: bytes, row: dict | None, then: Callable[[], None] | None = None) -> None:
        """``then()`` when the row is stored; not when the control store refuses it."""

    def watch_actor(self, actor: bytes, changed: Callable[[dict | None], None]) -> int: ...

    def unwatch(self, number: int) -> None: ...

    def actors_of(self, homes: Container[bytes], then: Callable[[list[tuple[bytes, dict, bytes]]], None]) -> None:
        """``[(actor, row, packed row), ...]`` of all actors whose home is one of these."""

    def swap_actor(self, actor: bytes, packed: bytes, row: dict,
                   then: Callable[[bool, tuple[dict, bytes] | None], None]) -> None:
        """Replace the row if it still is ``packed``; ``then(swapped, (row, packed row) as it is now)``."""

    def function(self, key: bytes) -> bytes | None:
        """A pickled function, if it can be read at once."""

    def find_node(self, node: bytes, then: Callable[[dict | None], None]) -> None:
        """``then(row)`` with the row of an incarnation in the nodes table; None when there is none."""

    def record_job(self, job: int, row: dict | None) -> None: ...

    def job_ended(self, job: int, then: Callable[[bool], None]) -> None:
        """``then(ended)``: the job's row has it ended, or its driver's node is dead."""

    def job_is_used(self, job: int, but_home: bytes, then: Callable[[bool], None]) -> None:
        """``then(used)``: an actor of the job lives and its home is not ``but_home``."""

    def claim_group(self, namespace: str, name: str, group: bytes, then: Callable[[bytes], None]) -> None: ...

    def release_group(self, namespace: str, name: str, group: bytes) -> None: ...

    def record_group(self, group: bytes, row: dict | None) -> None: ...

    def find_group(self, group: bytes, then: Callable[[dict | None], None]) -> None:
        """``then(row)``; None when there is no row, and when no answer comes."""

    def list_groups(self, then: Callable[[list[tuple[bytes, dict]]], None]) -> None: ...

    def swap_group(self, group: bytes, old: dict, new: dict, then: Callable[[bool, dict | None], None]) -> None:
        """Replace the row if it still is ``old``; ``then(swapped, row as it is now)``."""
