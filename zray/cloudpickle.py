"""The cloudpickle that zray pickles functions and classes with, under Ray's module name."""

import pickle  # noqa: F401

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
