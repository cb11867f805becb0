"""The classes of rows of the state API, at the path of earlier versions of Ray."""

from zray.util.state.common import *  # noqa: F403
from zray.util.state.common import __all__ as __all__
