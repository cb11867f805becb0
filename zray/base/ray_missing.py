"""Names of Ray's core and of its libraries that zray lacks: the one list, for errors and for the test of names.

An entry stands for everything below it.  A test fails for an entry that zray has, so the list only gets shorter.
"""

from __future__ import annotations

NOT_YET = "is not in zray yet"
REMOVED = "was removed from Ray"
OTHER_LANGUAGES = "calls other languages, and zray is Python"
INSIDE = "belongs to Ray's own processes, and zray has none of them"

MISSING: dict[str, str] = {
    # libraries on top of the core
    "air": NOT_YET,
    "data": NOT_YET,
    "llm": NOT_YET,
    "rllib": NOT_YET,
    "serve": NOT_YET,
    "train": NOT_YET,
    "tune": NOT_YET,
    "workflow": REMOVED,
    # parts of the core that others build
    "dag": NOT_YET,
    "job_submission": NOT_YET,
    "util.collective": NOT_YET,
    "util.dask": NOT_YET,
    "util.joblib": NOT_YET,
    "util.metrics": NOT_YET,
    "util.multiprocessing": NOT_YET,
    "util.state": NOT_YET,
    "experimental.state": NOT_YET,
}


def why_missing(name: str) -> str:
    """Of "data.context": "ray.data is not in zray yet"; "" for what is no name of Ray or is in zray."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        known = ".".join(parts[:count])
        if known in MISSING:
            return f"ray.{known} {MISSING[known]}"
    return ""


def no_attribute(module: str, name: str) -> AttributeError:
    """For ``__getattr__`` of the module "zray.util" and the like."""
    why = why_missing(f"{module}.{name}".removeprefix("zray."))
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f": {why}" if why else ""))
