"""The errors of the state API, at the path of earlier versions of Ray."""

from zray.util.state.exception import *  # noqa: F403
from zray.util.state.exception import __all__ as __all__
