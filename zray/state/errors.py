"""Errors of the state API, with Ray's names."""

from __future__ import annotations


class RayStateApiException(Exception):
    """The state cannot be had, or only a part of it."""


class ServerUnavailable(RayStateApiException):
    """No node of this user answers."""


class DataSourceUnavailable(RayStateApiException):
    """Ray's error when a process does not answer; zray raises RayStateApiException itself."""


class NodesEnded(UserWarning):
    """A list lacks what only nodes kept that have ended; the message names them."""


class UnknownColumn(RayStateApiException, ValueError):
    """A filter names a column that these rows do not have."""
