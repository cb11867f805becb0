"""``zray.client(address).namespace(name).connect()``: Ray's older form of ``init``."""

from __future__ import annotations

from typing import Any

from zray.api.calls import init
from zray.api.context import ClusterContext

ClientContext = ClusterContext

__all__ = ["ClientBuilder", "ClientContext", "client"]


class ClientBuilder:
    """Collects the arguments of ``init``."""

    def __init__(self, address: str | None = None):
        self.address = address
        self._options: dict[str, Any] = {}

    def env(self, env: dict[str, Any]) -> ClientBuilder:
        """The runtime environment."""
        self._options["runtime_env"] = env
        return self

    def namespace(self, namespace: str) -> ClientBuilder:
        """The namespace of named actors."""
        self._options["namespace"] = namespace
        return self

    def connect(self) -> ClusterContext:
        """``init`` with these arguments."""
        return init(self.address, **self._options)


def client(address: str | None = None, _deprecation_warn_enabled: bool = True) -> ClientBuilder:
    """The start of a chain that ends with ``connect()``; the address is one of ``init``."""
    return ClientBuilder(address)
