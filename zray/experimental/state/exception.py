"""The errors of the state API, at the path of earlier versions of Ray."""

from zray.state.errors import DataSourceUnavailable, RayStateApiException, ServerUnavailable

__all__ = ["DataSourceUnavailable", "RayStateApiException", "ServerUnavailable"]
