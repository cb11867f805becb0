"""Hosts and ports, at Ray's module path."""

from __future__ import annotations

import socket

from zray.base.addresses import is_loopback

__all__ = ["build_address", "find_free_port", "is_localhost", "parse_address"]


def find_free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    """A TCP port that nobody uses now."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def build_address(host: str, port: int | str) -> str:
    """``"10.0.0.1:80"``, ``"[::1]:80"``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(address: str) -> tuple[str, str] | None:
    """``(host, port)`` of an address as :func:`build_address` makes it; None for another text."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or ":" in host and not host.startswith("["):
        return None
    return host.removeprefix("[").removesuffix("]"), port


def is_localhost(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    return is_loopback(host)
