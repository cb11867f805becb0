"""Ports for a control store that has no daemon around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.gcs.configuration.config import ClusterConfig
from zray.gcs.service import GcsPorts


def gcs_ports(clock: Callable[[], float] = lambda: 0.0, send: Callable[[bytes, Any], None] = lambda peer, message: None,
              fenced: Callable[[str], None] = lambda reason: None,
              configured: Callable[[ClusterConfig], None] = lambda config: None) -> GcsPorts:
    """Ports that do nothing, but for those given."""
    return GcsPorts(clock, send, fenced, configured)
