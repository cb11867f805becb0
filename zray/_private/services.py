"""Addresses, at Ray's module path."""

from __future__ import annotations

__all__ = ["get_node_ip_address"]


def get_node_ip_address(address: str | None = None) -> str:
    """The address of this node; ``address``, which Ray dials to find it, is not needed."""
    from zray.util import get_node_ip_address as of_this_node

    return of_this_node()
