"""The address of this machine, as other machines reach it."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
# The kernel says from which of the machine's addresses it would send to these; nothing is sent.  The first one needs a
# default route; the others are for machines in a private network without one.
_ELSEWHERE = ("192.0.2.1", "10.255.255.254", "172.31.255.254", "192.168.255.254", "2001:db8::1")
_ANY_PORT = 9


def machine_address() -> str:
    """The address of the interface towards other machines; loopback where there is none."""
    for elsewhere in _ELSEWHERE:
        family = socket.AF_INET6 if ":" in elsewhere else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, _ANY_PORT))
                found = probe.getsockname()[0]
        except OSError:  # no route there, or no such family
            continue
        if found not in ("0.0.0.0", "::"):
            return found
    return LOOPBACK


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    host = host.strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def is_wildcard(host: str) -> bool:
    """Whether ``host`` stands for all addresses of the machine."""
    return host.strip("[]") in ("0.0.0.0", "::", "*")


def is_here(host: str) -> bool:
    """Whether ``host`` names this machine: loopback, its name, or its address."""
    return is_loopback(host) or host in (socket.gethostname(), machine_address())
