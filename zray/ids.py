"""An alias of zray.base.ids: pickles of earlier versions name this module."""

import sys

from zray.base import ids

sys.modules[__name__] = ids
