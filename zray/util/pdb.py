"""Another name of :mod:`zray.util.rpdb`, as in Ray."""

from zray.util.rpdb import set_trace

__all__ = ["set_trace"]
