"""The asyncio loop of an async actor, with the mesh inside it."""

from __future__ import annotations

import asyncio
from typing import Any


def new_event_loop(mesh_loop: Any) -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()
