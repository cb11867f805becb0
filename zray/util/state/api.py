"""The functions of the state API, at Ray's path."""

from zray.state.api import *  # noqa: F403
from zray.state.api import __all__ as __all__
