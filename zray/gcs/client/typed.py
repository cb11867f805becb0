"""The tables of the control store by name: requests in terms of functions, names, actors and so on.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.gcs.client.requests import Call, Done
from zray.gcs.replica import tables
from zray.gcs.replica.tables import (
    ACTORS,
    FUNCTIONS,
    GROUP_NAMES,
    GROUPS,
    JOBS,
    KV,
    LOCATIONS,
    NAMES,
    NODES,
    OWNERS,
    PACKAGES,
    Change,
    scoped,
    unscoped,
)


class TypedTables:
    """Built on five operations on rows, which a client brings; see zray.gcs.client.client."""

    def put(self, key: bytes, value: bytes, done: Done = None) -> Call:
        raise NotImplementedError

    def delete(self, key: bytes, done: Done = None) -> Call:
        raise NotImplementedError

    def compare_and_set(self, key: bytes, expected: bytes | None, new: bytes | None, done: Done = None) -> Call:
        raise NotImplementedError

    def get(self, key: bytes, done: Done = None) -> Call:
        raise NotImplementedError

    def list_prefix(self, prefix: bytes, done: Done = None, *, values: bool = True) -> Call:
        raise NotImplementedError

    def watch_key(self, key: bytes, callback: Callable[[bool, list[Change]], None]) -> int:
        raise NotImplementedError

    def _issue(self, op: list, key: bytes, done: Done, convert: Callable[[Any], Any] | None = None) -> Call:
        """An operation, for the shard of ``key``."""
        raise NotImplementedError

    def register_function(self, key: bytes, blob: bytes, done: Done = None) -> Call:
        """Store a pickled function once.  value: True if it was new."""
        return self._swap(FUNCTIONS + key, None, blob, done)

    def get_function(self, key: bytes, done: Done = None) -> Call:
        return self.get(FUNCTIONS + key, done)

    def await_function(self, key: bytes, arrived: Callable[[bytes], None]) -> int:
        """``arrived(blob)`` as soon as a process has stored the function; the number of the watch, to end it."""
        def changed(reset: bool, changes: list[Change]) -> None:
            blob = next((change.value for change in changes if change.value is not None), None)
            if blob is not None:
                arrived(blob)

        return self.watch_key(FUNCTIONS + key, changed)

    def put_package(self, key: bytes, piece: bytes, done: Done = None) -> Call:
        """Store a piece of a package; ``key``: job, digest, and which piece."""
        return self.put(PACKAGES + key, piece, done)

    def get_package(self, key: bytes, done: Done = None) -> Call:
        """value: the piece or None."""
        return self.get(PACKAGES + key, done)

    def drop_job(self, job: bytes) -> None:
        """Forget functions, owners and packages whose keys begin with ``job``: no process is left that needs them."""
        def listed(call: Call) -> None:
            for key, _ in call.value or ():
                self.delete(key)

        for table in (FUNCTIONS, OWNERS, PACKAGES):
            self.list_prefix(table + job, listed, values=False)

    def claim_name(self, namespace: str, name: str, actor: bytes, done: Done = None) -> Call:
        """value: (claimed, the actor that holds the name now)."""
        return self.compare_and_set(scoped(NAMES, namespace, name), None, actor, done)

    def release_name(self, namespace: str, name: str, actor: bytes, done: Done = None) -> Call:
        """Give the name up if ``actor`` holds it.  value: whether it did."""
        return self._swap(scoped(NAMES, namespace, name), actor, None, done)

    def lookup_name(self, namespace: str, name: str, done: Done = None) -> Call:
        """value: the actor's id or None."""
        return self.get(scoped(NAMES, namespace, name), done)

    def list_names(self, namespace: str | None = None, done: Done = None) -> Call:
        """value: [(namespace, name, actor), ...]; of all namespaces when None."""
        prefix = NAMES if namespace is None else scoped(NAMES, namespace)
        return self._listed(prefix, lambda key, value: (*_text(unscoped(NAMES, key)), value), done)

    def record_job(self, job: int, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(JOBS + job.to_bytes(4, "big"), record, done)

    def get_job(self, job: int, done: Done = None) -> Call:
        return self._unpacked(JOBS + job.to_bytes(4, "big"), done)

    def list_jobs(self, done: Done = None) -> Call:
        """value: [(job, record), ...]."""
        return self._listed(JOBS, lambda key, value: (int.from_bytes(key[len(JOBS):], "big"),
                                                      tables.unpack_record(value)), done)

    def record_actor(self, actor: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(ACTORS + actor, record, done)

    def get_actor(self, actor: bytes, done: Done = None) -> Call:
        return self._unpacked(ACTORS + actor, done)

    def list_actors(self, done: Done = None) -> Call:
        """value: [(actor, record), ...]."""
        return self._records(ACTORS, done)

    def claim_group_name(self, namespace: str, name: str, group: bytes, done: Done = None) -> Call:
        """value: (claimed, the placement group that holds the name now)."""
        return self.compare_and_set(scoped(GROUP_NAMES, namespace, name), None, group, done)

    def release_group_name(self, namespace: str, name: str, group: bytes, done: Done = None) -> Call:
        return self._swap(scoped(GROUP_NAMES, namespace, name), group, None, done)

    def lookup_group_name(self, namespace: str, name: str, done: Done = None) -> Call:
        """value: the placement group's id or None."""
        return self.get(scoped(GROUP_NAMES, namespace, name), done)

    def record_group(self, group: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(GROUPS + group, record, done)

    def swap_group(self, group: bytes, old: dict[str, Any], new: dict[str, Any], done: Done = None) -> Call:
        """value: (whether the record was ``old`` and is ``new`` now, the record now or None)."""
        key = GROUPS + group
        return self._issue([tables.COMPARE_AND_SET, key, tables.pack_record(old), tables.pack_record(new)], key, done,
                           lambda r: (r[0], _record_in(r[1])))

    def get_group(self, group: bytes, done: Done = None) -> Call:
        return self._unpacked(GROUPS + group, done)

    def list_groups(self, done: Done = None) -> Call:
        """value: [(placement group, record), ...]."""
        return self._records(GROUPS, done)

    def record_node(self, node: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(NODES + node, record, done)

    def list_nodes(self, done: Done = None) -> Call:
        """value: [(node, record), ...]."""
        return self._records(NODES, done)

    def record_location(self, oid: bytes, record: dict[str, Any] | None, done: Done = None) -> Call:
        return self._record(LOCATIONS + oid, record, done)

    def get_location(self, oid: bytes, done: Done = None) -> Call:
        return self._unpacked(LOCATIONS + oid, done)

    def swap_owner(self, oid: bytes, old: bytes | None, new: bytes | None, done: Done = None) -> Call:
        """value: (whether the adopter of an object was ``old`` and is now ``new``, the adopter now)."""
        return self.compare_and_set(OWNERS + oid, old, new, done)

    def read_owner(self, oid: bytes, done: Done = None) -> Call:
        """value: the adopter of an object, as it wrote it; None when it has none."""
        return self.get(OWNERS + oid, done)

    def kv_put(self, key: bytes, value: bytes, namespace: str = "", overwrite: bool = True, done: Done = None) -> Call:
        """value: whether the key existed before (then, without ``overwrite``, it is unchanged)."""
        where = scoped(KV, namespace, key)
        if overwrite:
            return self.put(where, value, done)
        return self._issue([tables.COMPARE_AND_SET, where, None, value], where, done, lambda r: not r[0])

    def kv_swap(self, key: bytes, expected: bytes, new: bytes, namespace: str = "", done: Done = None) -> Call:
        """value: whether the key had the value ``expected``, and has ``new`` now."""
        return self._swap(scoped(KV, namespace, key), expected, new, done)

    def kv_get(self, key: bytes, namespace: str = "", done: Done = None) -> Call:
        return self.get(scoped(KV, namespace, key), done)

    def kv_del(self, key: bytes, namespace: str = "", done: Done = None) -> Call:
        return self.delete(scoped(KV, namespace, key), done)

    def kv_exists(self, key: bytes, namespace: str = "", done: Done = None) -> Call:
        """The first key that starts with ``key`` is ``key`` itself, if it is there: no value travels."""
        where = scoped(KV, namespace, key)
        return self._issue([tables.LIST, where, b"", 1, False], where, done,
                           lambda r: bool(r[0]) and r[0][0][0] == where)

    def kv_list(self, prefix: bytes = b"", namespace: str = "", done: Done = None) -> Call:
        """value: keys with ``prefix``, in order."""
        return self._listed(scoped(KV, namespace, prefix), lambda key, _: unscoped(KV, key)[1], done, values=False)

    def _swap(self, key: bytes, expected: bytes | None, new: bytes | None, done: Done) -> Call:
        """value: whether the row held ``expected``, and holds ``new`` now."""
        return self._issue([tables.COMPARE_AND_SET, key, expected, new], key, done, lambda r: r[0])

    def _record(self, key: bytes, record: dict[str, Any] | None, done: Done) -> Call:
        return self.delete(key, done) if record is None else self.put(key, tables.pack_record(record), done)

    def _unpacked(self, key: bytes, done: Done) -> Call:
        return self._issue([tables.GET, key], key, done, lambda r: _record_in(r[0]))

    def _records(self, table: bytes, done: Done) -> Call:
        return self._listed(table, lambda key, value: (key[len(table):], tables.unpack_record(value)), done)

    def _listed(self, prefix: bytes, row: Callable[[bytes, Any], Any], done: Done, *, values: bool = True) -> Call:
        listed = Call([tables.LIST, prefix], lambda items: [row(key, value) for key, value in items])
        self.list_prefix(prefix, lambda call: listed.complete(call.error, call.value), values=values)
        return listed.then(done) if done is not None else listed


def _record_in(value: bytes | None) -> dict[str, Any] | None:
    return None if value is None else tables.unpack_record(value)


def _text(scope: tuple[str, bytes]) -> tuple[str, str]:
    return scope[0], scope[1].decode()
