"""The object store of one node: one arena in shared memory, extents for its clients, objects inside them.

    header   the 64 bytes before every object, and how to walk them            pure (over a buffer)
    arena    free ranges of the arena                                          pure
    heap     blocks inside the extents that one client holds                   pure (over a buffer)
    room     extents, blocks, growth, and the requests that wait for room      pure
    table    the node's machine: life of objects, frees, eviction, spilling    pure
    views    the table for people                                              pure
    pins     which process reads which block: one table a process, read by the node   shell
    segment  shared memory: the arena and the control segment                  shell
    client   what a core process uses                                          shell
    spill    files of spilled objects                                          shell
    transfer objects between nodes, one pull per object per node               pure: pulls serving directory copies
             (exchange: what these share)                                             handover
    service  what the node daemon embeds                                       composition
    reaper   removes what killed sessions left                                 shell
"""

from __future__ import annotations

from typing import Any


class StoreFull(Exception):
    """The store has no room for an object.  ``report`` names the holders; ``str()`` is the reason in words."""

    def __init__(self, report: dict[str, Any]):
        super().__init__(report.get("reason", "no room for the object"))
        self.report = report
