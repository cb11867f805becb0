"""An alias of zray.handles.refs: pickles of earlier versions name this module."""

import sys

from zray.handles import refs

sys.modules[__name__] = refs
