"""The functions of the state API, at the path of earlier versions of Ray."""

from zray.state.api import *  # noqa: F403
from zray.state.api import __all__ as __all__
