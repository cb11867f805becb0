"""The errors of the state API, at Ray's path."""

from zray.state.errors import RayStateApiException, ServerUnavailable

__all__ = ["RayStateApiException", "ServerUnavailable"]
