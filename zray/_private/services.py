"""Addresses, at Ray's module path."""

from __future__ import annotations

import os

__all__ = ["canonicalize_bootstrap_address", "find_bootstrap_address", "get_node_ip_address"]


def get_node_ip_address(address: str | None = None) -> str:
    """The address of this node; ``address``, which Ray dials to find it, is not needed."""
    from zray.util import get_node_ip_address as of_this_node

    return of_this_node()


def find_bootstrap_address(temp_dir: str | None = None) -> str | None:
    """The address of the cluster that ``init()`` would join here, None where there is none."""
    from zray.node.running.launch import running_cluster

    found = running_cluster()
    return found.session_dir if found is not None else None


def canonicalize_bootstrap_address(addr: str | None, temp_dir: str | None = None) -> str | None:
    """``addr`` as ``init`` would take it: the environment's, or that of the cluster here, for None and "auto"."""
    if addr in (None, "auto"):
        return os.environ.get("ZRAY_ADDRESS") or os.environ.get("RAY_ADDRESS") or find_bootstrap_address(temp_dir)
    return None if addr == "local" else addr
