"""Errors of compiled graphs."""

from zray.base.errors import RaySystemError


class RayChannelError(RaySystemError):
    """A channel of a compiled graph is closed: the graph was torn down, or one of its processes ended."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A compiled graph did not give a result, or take an input, in time."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph has as many executions in flight, or results that were not fetched, as it may."""
