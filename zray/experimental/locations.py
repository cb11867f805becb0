"""Where objects are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zray.base.ids import node_of
from zray.handles.connection import current
from zray.handles.refs import ObjectRef
from zray.wire import messages as m

__all__ = ["get_local_object_locations", "get_object_locations"]

TIMEOUT_S = 10.0


def get_object_locations(obj_refs: Sequence[ObjectRef[Any]],
                         timeout_ms: int = -1) -> dict[ObjectRef[Any], dict[str, Any]]:
    """For each reference ``{"node_ids": [hex], "object_size": bytes, "did_spill": bool}``.

    An object that is so small that it travels inside messages is on its owner's node.  One that is not ready has no
    node, and its size is None.  This node knows ``did_spill`` only of objects that were made here.  The answer is a
    snapshot: copies come and go.  GetTimeoutError after ``timeout_ms`` (-1: 10 s); TypeError for anything but
    ObjectRefs; RuntimeError before ``init``.
    """
    return _locations(obj_refs, timeout_ms, "get_object_locations")


def get_local_object_locations(obj_refs: Sequence[ObjectRef[Any]]) -> dict[ObjectRef[Any], dict[str, Any]]:
    """The same, as far as this process and its node know it."""
    return _locations(obj_refs, -1, "get_local_object_locations")


def _locations(obj_refs: Sequence[ObjectRef[Any]], timeout_ms: int, name: str) -> dict[ObjectRef[Any], dict[str, Any]]:
    for ref in obj_refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"{name}() takes ObjectRefs, not a {type(ref).__name__}")
    runtime = current()
    if runtime is None:
        raise RuntimeError("zray has not been started: call zray.init() first")
    names = {row["NodeID"][: 2 * len(runtime.node)]: row["NodeID"] for row in runtime.query("nodes")["nodes"]}
    found: dict[ObjectRef[Any], dict[str, Any]] = {}
    stored: list[tuple[ObjectRef[Any], list[Any]]] = []
    for ref in obj_refs:
        record = ref._record
        value = record.value
        while type(value) is list and value[0] == m.CARRYING:
            value = value[1]
        nodes: list[str] = []
        size: int | None = None
        if type(value) is bytes:
            owner = runtime.node if record.owner is None else node_of(record.owner)
            nodes, size = [names.get(owner.hex(), owner.hex())], len(value)
        elif type(value) is list:
            size = 0
            if value[0] == m.STORED:
                size = value[2]
                stored.append((ref, value))
        found[ref] = {"node_ids": nodes, "object_size": size, "did_spill": False}
    if stored:
        values = [value for _, value in stored]
        answer = runtime.request(lambda number: m.StoreLocate(number, values),
                                 TIMEOUT_S if timeout_ms < 0 else timeout_ms / 1000)
        for (ref, _), places, spilled in zip(stored, answer.nodes, answer.spilled, strict=True):
            found[ref]["node_ids"] = [names.get(node.hex(), node.hex()) for node in places]
            found[ref]["did_spill"] = spilled
    return found
