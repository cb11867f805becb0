"""Functions and classes as they are sent to workers, once each: pickled, with a key.  Errors name
the unpicklable part.

    custom_serializers, pickled_caches  <  pickler  <  unpicklable  <  unserializable  <  definitions  <  serialization

Each imports only modules before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from zray.base import frames
from zray.base.errors import OufOfBandObjectRefSerializationException
from zray.base.plain_text import full_name
from zray.values import unserializable
from zray.values.pickler import DefinitionPickler, cloud_dumps, pickle_by_value_if_unreachable
from zray.values.unpicklable import captured

KEY_BYTES = 16
WARN_BYTES = 10 * 1024 * 1024  # Ray warns at the same size


def dump_definition(definition: Callable | type) -> tuple[bytes, bytes]:
    """``(key, blob)``; the TypeError names the captured variable that cannot be pickled."""
    pickle_by_value_if_unreachable(definition)
    name = getattr(definition, "__qualname__", repr(definition))
    kind = "class" if isinstance(definition, type) else "function"
    try:
        blob = cloud_dumps(definition, kind=DefinitionPickler)
    except OufOfBandObjectRefSerializationException:
        raise
    except Exception as error:  # a captured object's __reduce__ may raise anything
        raise unserializable.definition(definition, full_name(definition), error) from error
    if len(blob) > WARN_BYTES:
        warnings.warn(_too_big(definition, kind, name, len(blob)), stacklevel=frames.levels_to_user())
    return blake2b(blob, digest_size=KEY_BYTES).digest(), blob


def _too_big(definition: Any, kind: str, name: str, nbytes: int) -> str:
    sizes = []
    for label, value in captured(definition):
        try:
            sizes.append((len(cloud_dumps(value)), label))
        except Exception:  # already pickled once as part of the definition; on its own it may not
            continue
    biggest = max(sizes, default=(0, ""))
    what = f", of which {biggest[1].strip()} is {biggest[0] / 2**20:.1f} MiB" if biggest[1] else ""
    return (f"The {kind} {name!r} is {nbytes / 2**20:.1f} MiB when pickled{what}. "
            "It is sent to every worker; put() large data and pass the reference instead.")
