"""The address of this machine, and which names mean it."""

from __future__ import annotations

import socket

import pytest

from zray.base import addresses
from zray.node.running.session import NodeSession


class Probe:
    """A socket whose machine has routes to some networks only."""

    routes: dict[str, str] = {}

    def __init__(self, family, kind):
        self.own = ""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def connect(self, where):
        if where[0] not in self.routes:
            raise OSError("Network is unreachable")
        self.own = self.routes[where[0]]

    def getsockname(self):
        return self.own, 1


@pytest.mark.parametrize(("routes", "wanted"), [
    ({"192.0.2.1": "10.0.0.7", "10.255.255.254": "10.0.0.8"}, "10.0.0.7"),
    ({"172.31.255.254": "172.16.0.2"}, "172.16.0.2"),
    ({"2001:db8::1": "2001:db8::7"}, "2001:db8::7"), ({"192.0.2.1": "0.0.0.0"}, "127.0.0.1"), ({}, "127.0.0.1")])
def test_the_address_is_that_towards_other_machines(monkeypatch, routes, wanted):
    monkeypatch.setattr(Probe, "routes", routes)
    monkeypatch.setattr(socket, "socket", Probe)
    assert addresses.machine_address() == wanted


def test_names_of_this_machine(monkeypatch):
    monkeypatch.setattr(addresses, "machine_address", lambda: "10.0.0.7")
    assert all(map(addresses.is_here, ("localhost", "127.0.0.1", "[::1]", "10.0.0.7", socket.gethostname())))
    assert not addresses.is_here("10.0.0.8") and addresses.is_wildcard("[::]") and not addresses.is_wildcard("::1")


@pytest.mark.parametrize(("listens", "address", "wanted"), [
    ("127.0.0.1:7000", "127.0.0.1:7000", True), ("127.0.0.1:7000", "10.0.0.7:7000", True),
    ("127.0.0.1:7000", "localhost:7001", False), ("127.0.0.1:7000", "10.0.0.8:7000", False),
    ("10.0.0.7:7000", "127.0.0.1:7000", False), ("0.0.0.0:7000", "localhost:7000", True),
    ("", "127.0.0.1:7000", False)])
def test_a_node_on_loopback_is_at_every_address_of_its_machine(monkeypatch, listens, address, wanted):
    monkeypatch.setattr(addresses, "machine_address", lambda: "10.0.0.7")
    node = NodeSession("/s", b"n" * 8, "ab", "ipc://x", 1, 1, False, 1.0, address=listens)
    assert node.is_at(address) == wanted
