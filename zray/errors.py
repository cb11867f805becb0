"""An alias of zray.base.errors: pickles of earlier versions name this module."""

import sys

from zray.base import errors

sys.modules[__name__] = errors
