"""Where objects are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zray.handles.connection import connected
from zray.handles.refs import ObjectRef
from zray.wire import messages as m

__all__ = ["get_object_locations"]

TIMEOUT_S = 10.0


def get_object_locations(obj_refs: Sequence[ObjectRef[Any]],
                         timeout_ms: int = -1) -> dict[ObjectRef[Any], dict[str, Any]]:
    """For each reference ``{"node_ids": [hex], "object_size": bytes, "did_spill": bool}``.

    No node for an object that is not ready, failed, or is so small that it travels inside messages.  This node knows
    ``did_spill`` only of objects that were made here.  The answer is a snapshot: copies come and go.
    GetTimeoutError after ``timeout_ms`` (-1: 10 s); TypeError for anything but ObjectRefs.
    """
    for ref in obj_refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"get_object_locations() takes ObjectRefs, not a {type(ref).__name__}")
    runtime = connected()
    found: dict[ObjectRef[Any], dict[str, Any]] = {}
    stored: list[tuple[ObjectRef[Any], list[Any]]] = []
    for ref in obj_refs:
        value = ref._record.value
        while type(value) is list and value[0] == m.CARRYING:
            value = value[1]
        size = len(value) if type(value) is bytes else 0
        if type(value) is list and value[0] == m.STORED:
            size = value[2]
            stored.append((ref, value))
        found[ref] = {"node_ids": [], "object_size": size, "did_spill": False}
    if stored:
        values = [value for _, value in stored]
        answer = runtime.request(lambda number: m.StoreLocate(number, values),
                                 TIMEOUT_S if timeout_ms < 0 else timeout_ms / 1000)
        names = {row["NodeID"][: 2 * len(runtime.node)]: row["NodeID"] for row in runtime.query("nodes")["nodes"]}
        for (ref, _), nodes, spilled in zip(stored, answer.nodes, answer.spilled, strict=True):
            found[ref]["node_ids"] = [names.get(node.hex(), node.hex()) for node in nodes]
            found[ref]["did_spill"] = spilled
    return found
