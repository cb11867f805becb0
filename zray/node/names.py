"""The control store as the node's machine needs it: zray.gcs.client.client with plain callbacks."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from zray.gcs.client.client import Call, GcsClient
from zray.gcs.replica.tables import ACTORS, NODES, Change, pack_record, unpack_record
from zray.node.jobs.table import JOB_BITS


class GcsNames:
    """See zray.node.names_table.  With a chain of one member every answer comes before the method returns."""

    def __init__(self, client: GcsClient):
        self._client = client
        self._fenced: set[bytes] = set()

    def fence(self, nodes: Iterable[bytes], then: Callable[[], None]) -> None:
        unfenced = [node for node in nodes if node not in self._fenced]

        def fenced() -> None:
            self._fenced.update(unfenced)
            then()

        self._client.fence(unfenced, fenced)

    def claim(self, namespace: str, name: str, actor: bytes, then: Callable[[bytes], None]) -> None:
        self._client.claim_name(namespace, name, actor, lambda call: then(b"" if call.error else call.value[1]))

    def release(self, namespace: str, name: str, actor: bytes) -> None:
        self._client.release_name(namespace, name, actor)

    def find(self, namespace: str, name: str, then: Callable[[bytes], None]) -> None:
        self._client.lookup_name(namespace, name, lambda call: then(b"" if call.error else call.value or b""))

    def record_actor(self, actor: bytes, row: dict[str, Any] | None, then: Callable[[], None] | None = None) -> None:
        def done(call: Call) -> None:
            if then is not None and not call.error:
                then()

        self._client.record_actor(actor, row, done if then is not None else None)

    def watch_actor(self, actor: bytes, changed: Callable[[dict[str, Any] | None], None]) -> int:
        """``changed(row)`` once the store answers, and at each change; None when there is no row."""
        key = ACTORS + actor

        def news(reset: bool, changes: list[Change]) -> None:
            last = [change for change in changes if change.key == key]
            if last:
                value = last[-1].value
                changed(unpack_record(value) if value is not None else None)
            elif reset:
                changed(None)

        return self._client.watch_key(key, news)

    def unwatch(self, number: int) -> None:
        self._client.unwatch(number)

    def actors_of(self, homes: Container[bytes],
                  then: Callable[[list[tuple[bytes, dict[str, Any], bytes]]], None]) -> None:
        """``then([(actor, row, packed row), ...])`` for the actors whose home is one of these nodes."""
        def listed(call: Call) -> None:
            rows = [(key[len(ACTORS):], unpack_record(value), value) for key, value in call.value or ()]
            then([row for row in rows if row[1].get("home") in homes])

        self._client.list_prefix(ACTORS, listed)

    def swap_actor(self, actor: bytes, packed: bytes, row: dict[str, Any],
                   then: Callable[[bool, tuple[dict[str, Any], bytes] | None], None]) -> None:
        def done(call: Call) -> None:
            swapped, now = (False, None) if call.error else call.value
            then(swapped, (unpack_record(now), now) if now is not None else None)

        self._client.compare_and_set(ACTORS + actor, packed, pack_record(row), done)

    def function(self, key: bytes) -> bytes | None:
        return self._client.get_function(key).value

    def find_node(self, node: bytes, then: Callable[[dict[str, Any] | None], None]) -> None:
        """``then(row)`` of the node with that incarnation; None when this cluster never had it."""
        self._client.list_prefix(NODES + node,
                                 lambda call: then(unpack_record(call.value[0][1]) if call.value else None))

    def record_job(self, job: int, row: dict[str, Any] | None) -> None:
        self._client.record_job(job, row)

    def job_ended(self, job: int, then: Callable[[bool], None]) -> None:
        """``then(ended)``: the job's row has it ended, or the node of its driver is dead."""
        def read(call: Call) -> None:
            if call.value is not None and call.value["end_time"]:
                then(True)
            else:
                self._client.list_nodes(listed)

        def listed(call: Call) -> None:
            live = {row["ordinal"] for _, row in call.value or () if row["state"] in ("alive", "draining")}
            then(bool(live) and job >> JOB_BITS not in live)

        self._client.get_job(job, read)

    def job_is_used(self, job: int, but_home: bytes, then: Callable[[bool], None]) -> None:
        """``then(used)``: some actor of the job lives and its home is not ``but_home``; True also
        without an answer."""
        def listed(call: Call) -> None:
            rows = (unpack_record(value) for _, value in call.value or ())
            then(bool(call.error) or any(row["job_id"] == job and row["state"] != "DEAD" and row["home"] != but_home
                                         for row in rows))

        self._client.list_prefix(ACTORS, listed)

    def claim_group(self, namespace: str, name: str, group: bytes, then: Callable[[bytes], None]) -> None:
        self._client.claim_group_name(namespace, name, group, lambda call: then(b"" if call.error else call.value[1]))

    def release_group(self, namespace: str, name: str, group: bytes) -> None:
        self._client.release_group_name(namespace, name, group)

    def record_group(self, group: bytes, row: dict[str, Any] | None) -> None:
        self._client.record_group(group, row)

    def find_group(self, group: bytes, then: Callable[[dict[str, Any] | None], None]) -> None:
        self._client.get_group(group, lambda call: then(call.value))

    def list_groups(self, then: Callable[[list[tuple[bytes, dict[str, Any]]]], None]) -> None:
        self._client.list_groups(lambda call: then(call.value or []))

    def swap_group(self, group: bytes, old: dict[str, Any], new: dict[str, Any],
                   then: Callable[[bool, dict[str, Any] | None], None]) -> None:
        self._client.swap_group(group, old, new, lambda call: then(*((False, None) if call.error else call.value)))
