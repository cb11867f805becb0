"""The cloudpickle that zray pickles functions and classes with, under Ray's module name."""

import pickle  # noqa: F401
from typing import Any

from cloudpickle import *  # noqa: F403
from cloudpickle import (  # noqa: F401
    CloudPickler,
    Pickler,
    dump,
    dumps,
    load,
    loads,
    register_pickle_by_value,
    unregister_pickle_by_value,
)


def dumps_debug(obj: Any, *args: Any, **kwargs: Any) -> bytes:
    """``dumps``, with an error that names the part that cannot be pickled.  TypeError."""
    try:
        return dumps(obj, *args, **kwargs)
    except Exception as error:  # a user's __reduce__ may raise anything
        from zray.values.unpicklable import explain

        raise TypeError(f"ray.cloudpickle.dumps({obj!r}) failed: {type(error).__name__}: {error}. "
                        f"The cause is the {explain(obj, 'object')}.") from error
