"""The tables of one shard of the control store: one ordered, versioned key-value state machine.

A key is a table's prefix followed by the name of the row; a value is opaque bytes (mostly msgpack).  The version of a
row is the chain sequence number of the update that wrote it, so versions are the same on every replica.

    operation                                             result
    [PUT, key, value]                                     [existed, version]
    [DELETE, key]                                         existed
    [COMPARE_AND_SET, key, expected | None, new | None]   [swapped, value | None, version]   None: absent
    [GET, key]                                            [value | None, version]
    [LIST, prefix, after, limit, with_values]             [[[key, value | None, version], ...], more]
    [FORGET, client]                                      existed       (applied by zray.gcs.replica.state)

Create-if-absent is COMPARE_AND_SET from None, delete-if-equal is COMPARE_AND_SET to None.  The value in the result is
the row's afterwards, so a loser learns the winner.  Operations are deterministic: they read nothing but the state and
the update's own fields, so a chain can forward operations rather than state.
"""

from __future__ import annotations

from typing import Any

import msgpack
from sortedcontainers import SortedDict

from zray.base.named_tuples import NamedTuple

PUT, DELETE, COMPARE_AND_SET, GET, LIST, FORGET = 1, 2, 3, 4, 5, 6
READS = frozenset((GET, LIST))

NODES = b"node/"
JOBS = b"job/"
FUNCTIONS = b"func/"
ACTORS = b"actor/"
NAMES = b"name/"
LOCATIONS = b"loc/"
OWNERS = b"own/"  # of objects whose first owner died
KV = b"kv/"
PACKAGES = b"pkg/"  # of runtime environments, in pieces
SYSTEM = b"sys/"  # of the control store itself: the numbers and names allotted to nodes
GROUPS = b"pg/"
GROUP_NAMES = b"pgname/"

KEY_BYTES_MAX = 4096
# Records are metadata: a megabyte is far above any of ours and far below what would delay a chain.
RECORD_BYTES_MAX = 1024 * 1024
# Pickled functions and user values; above this they belong in the object store.
BLOB_BYTES_MAX = 64 * 1024 * 1024
VALUE_BYTES_MAX = {NODES: RECORD_BYTES_MAX, JOBS: RECORD_BYTES_MAX, FUNCTIONS: BLOB_BYTES_MAX,
                   ACTORS: RECORD_BYTES_MAX, NAMES: 256, LOCATIONS: RECORD_BYTES_MAX, OWNERS: 4096, KV: BLOB_BYTES_MAX,
                   PACKAGES: BLOB_BYTES_MAX, SYSTEM: 4096, GROUPS: RECORD_BYTES_MAX, GROUP_NAMES: 256}
# Of one shard; a node alone holds them all.
TABLES_BYTES_MAX = 256 * 1024 * 1024
# Cost of a row besides its key and value: tuple, bytes headers, its place in the dict and the sorted list.
ROW_BYTES = 250
LIST_ROWS_MAX = 10_000
LIST_BYTES_MAX = 16 * 1024 * 1024

# First words of GcsReply.error.
BAD_REQUEST = "bad_request"
TOO_LARGE = "too_large"
FULL = "full"
EXPIRED = "session_expired"
DISK = "disk"

_SHAPES: dict[int, tuple[tuple[type, ...], ...]] = {
    PUT: ((bytes,), (bytes,)),
    DELETE: ((bytes,),),
    COMPARE_AND_SET: ((bytes,), (bytes, type(None)), (bytes, type(None))),
    GET: ((bytes,),),
    LIST: ((bytes,), (bytes,), (int,), (bool,)),
    FORGET: ((bytes,),),
}


class Change(NamedTuple):
    """The effect of an update on one row; ``value`` None means the row is gone."""

    version: int
    key: bytes
    value: bytes | None


class TableRow(NamedTuple):
    value: bytes
    version: int


def refusal(op: Any) -> str:
    """Why ``op`` must not enter the chain ('' when it may): shape, key and value sizes.  Depends on ``op`` alone."""
    if type(op) is not list or not op or type(op[0]) is not int or op[0] not in _SHAPES:
        return f"{BAD_REQUEST}: not an operation of this store"
    shape = _SHAPES[op[0]]
    if len(op) - 1 != len(shape):
        return f"{BAD_REQUEST}: wrong fields for operation {op[0]}"
    for place, allowed in enumerate(shape, 1):
        if type(op[place]) not in allowed:
            return f"{BAD_REQUEST}: wrong fields for operation {op[0]}"
    if op[0] == LIST:
        return "" if op[3] > 0 else f"{BAD_REQUEST}: a list needs a positive limit"
    if op[0] == FORGET:
        return ""
    key = op[1]
    if len(key) > KEY_BYTES_MAX:
        return f"{TOO_LARGE}: a key of {len(key)} bytes, at most {KEY_BYTES_MAX} are allowed"
    table = key[:key.find(b"/") + 1]
    limit = VALUE_BYTES_MAX.get(table)
    if limit is None:
        return f"{BAD_REQUEST}: no table for key {key[:40]!r}"
    for value in op[2:]:
        if value is not None and len(value) > limit:
            return (f"{TOO_LARGE}: a value of {len(value)} bytes, table {table[:-1].decode()!r} takes at most "
                    f"{limit}; put large data in the object store")
    return ""


class Tables:
    """The rows, in key order.  ``apply`` takes an update's sequence number, ``read`` takes none."""

    def __init__(self, bytes_max: int = TABLES_BYTES_MAX) -> None:
        self.rows: SortedDict = SortedDict()
        self.bytes_max = bytes_max
        self.bytes_used = 0

    def apply(self, op: list, sequence: int) -> tuple[str, Any, Change | None]:
        """Run one update: (error, result, change of a row if any)."""
        if op[0] == PUT:
            return self._put(op[1], op[2], sequence)
        if op[0] == DELETE:
            existed = self._remove(op[1])
            return "", existed, Change(sequence, op[1], None) if existed else None
        return self._compare_and_set(op[1], op[2], op[3], sequence)

    def read(self, op: list) -> Any:
        """Answer GET or LIST."""
        if op[0] == GET:
            row = self.rows.get(op[1])
            return [row.value, row.version] if row is not None else [None, 0]
        return self._list(*op[1:])

    def matching(self, prefix: bytes) -> list[list]:
        """All rows with ``prefix`` as ``[version, key, value]`` (the state a new watch starts from)."""
        out = []
        for key in self.rows.irange(minimum=prefix):
            if not key.startswith(prefix):
                break
            row = self.rows[key]
            out.append([row.version, key, row.value])
        return out

    # ------------------------------------------------------------ operations

    def _put(self, key: bytes, value: bytes, sequence: int) -> tuple[str, Any, Change | None]:
        existed = key in self.rows
        error = self._store(key, value, sequence)
        if error:
            return error, None, None
        return "", [existed, sequence], Change(sequence, key, value)

    def _compare_and_set(self, key: bytes, expected: bytes | None, new: bytes | None,
                         sequence: int) -> tuple[str, Any, Change | None]:
        row = self.rows.get(key)
        present = row.value if row is not None else None
        if present != expected:
            return "", [False, present, row.version if row is not None else 0], None
        if new is None:
            existed = self._remove(key)
            return "", [True, None, 0], Change(sequence, key, None) if existed else None
        error = self._store(key, new, sequence)
        if error:
            return error, None, None
        return "", [True, new, sequence], Change(sequence, key, new)

    def _list(self, prefix: bytes, after: bytes, limit: int, with_values: bool) -> list:
        items: list[list] = []
        size = 0
        for key in self.rows.irange(minimum=max(prefix, after), inclusive=(after < prefix, True)):
            if not key.startswith(prefix):
                break
            row = self.rows[key]
            size += len(key) + (len(row.value) if with_values else 0)
            if len(items) >= min(limit, LIST_ROWS_MAX) or (items and size > LIST_BYTES_MAX):
                return [items, True]
            items.append([key, row.value if with_values else None, row.version])
        return [items, False]

    # ------------------------------------------------------------ rows and their bytes

    def _store(self, key: bytes, value: bytes, sequence: int) -> str:
        old = self.rows.get(key)
        size = _row_bytes(key, value) - (_row_bytes(key, old.value) if old is not None else 0)
        if size > 0 and self.bytes_used + size > self.bytes_max:
            return (f"{FULL}: the control store holds {self.bytes_used} bytes in {len(self.rows)} rows, "
                    f"its limit is {self.bytes_max}")
        self.bytes_used += size
        self.rows[key] = TableRow(value, sequence)
        return ""

    def _remove(self, key: bytes) -> bool:
        row = self.rows.pop(key, None)
        if row is None:
            return False
        self.bytes_used -= _row_bytes(key, row.value)
        return True

    # ------------------------------------------------------------ snapshot and invariants

    def usage(self) -> dict[str, dict[str, int]]:
        """Rows and bytes by table, for humans."""
        out: dict[str, dict[str, int]] = {}
        for key, row in self.rows.items():
            entry = out.setdefault(key[:key.find(b"/")].decode(), {"rows": 0, "bytes": 0})
            entry["rows"] += 1
            entry["bytes"] += _row_bytes(key, row.value)
        return out

    def dump(self) -> list:
        return [[key, row.value, row.version] for key, row in self.rows.items()]

    def load(self, dumped: list) -> None:
        self.rows = SortedDict({key: TableRow(value, version) for key, value, version in dumped})
        self.bytes_used = sum(_row_bytes(key, row.value) for key, row in self.rows.items())

    def check(self) -> None:
        assert self.bytes_used == sum(_row_bytes(key, row.value) for key, row in self.rows.items())
        assert self.bytes_used <= self.bytes_max, (self.bytes_used, self.bytes_max)
        for key, row in self.rows.items():
            assert type(key) is bytes and type(row.value) is bytes and row.version > 0, key


def _row_bytes(key: bytes, value: bytes) -> int:
    return ROW_BYTES + len(key) + len(value)


# ---------------------------------------------------------------- keys and records

def scoped(table: bytes, namespace: str, name: str | bytes = b"") -> bytes:
    """Key of ``name`` in ``namespace``; the length in front keeps namespaces apart and makes them a prefix."""
    space = namespace.encode()
    if len(space) > 0xFFFF:
        raise ValueError("a namespace has at most 65535 bytes")
    return table + len(space).to_bytes(2, "big") + space + (name.encode() if isinstance(name, str) else name)


def unscoped(table: bytes, key: bytes) -> tuple[str, bytes]:
    """The (namespace, name) of a key that :func:`scoped` made."""
    start = len(table) + 2
    end = start + int.from_bytes(key[len(table):start], "big")
    return key[start:end].decode(), key[end:]


def pack_record(record: dict[str, Any]) -> bytes:
    return msgpack.packb(record, use_bin_type=True)


def unpack_record(raw: bytes) -> dict[str, Any]:
    return msgpack.unpackb(raw, raw=False, strict_map_key=False, max_ext_len=0)
