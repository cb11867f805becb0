"""Helpers for tests of programs, at Ray's module path."""

from __future__ import annotations

import os
from typing import Any

from zray._common.test_utils import Semaphore, SignalActor, async_wait_for_condition, wait_for_condition
from zray.base.os_linux import readable

__all__ = ["Semaphore", "SignalActor", "async_wait_for_condition", "get_other_nodes", "wait_for_condition",
           "wait_for_pid_to_exit"]


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """RuntimeError when the process still runs after ``timeout`` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not readable(handle, timeout):
            raise RuntimeError(f"the process {pid} still runs after {timeout:g} s")
    finally:
        os.close(handle)


def get_other_nodes(cluster: Any, exclude_head: bool = False) -> list[Any]:
    """The nodes of a ``Cluster`` that this process is not connected to."""
    from zray.core.runtime_context import get_runtime_context

    here = get_runtime_context().get_node_id()
    return [node for node in cluster.list_all_nodes()
            if node.node_id != here and not (exclude_head and node is cluster.head_node)]
