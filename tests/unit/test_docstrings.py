"""Each public name says what it is: modules, classes, functions, and the methods and properties of classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

MODULES = [
    "zray", "zray.actor", "zray.cluster_utils", "zray.dag", "zray.exceptions", "zray.experimental",
    "zray.experimental.internal_kv", "zray.experimental.tqdm_ray", "zray.job_submission", "zray.remote_function",
    "zray.runtime_context", "zray.runtime_env", "zray.types", "zray.util", "zray.util.actor_pool",
    "zray.util.collective", "zray.util.dask", "zray.util.joblib", "zray.util.metrics", "zray.util.multiprocessing",
    "zray.util.placement_group", "zray.util.queue", "zray.util.scheduling_strategies", "zray.util.state",
]


def undocumented(module: Any) -> Iterator[str]:
    """Public names of the module, and of its classes, that have no docstring."""
    if not module.__doc__:
        yield "the module"
    for name in getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]:
        thing = getattr(module, name)
        ours = str(getattr(thing, "__module__", "")).startswith("zray")
        if not ours or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not thing.__doc__:
            yield name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if not member.startswith("_") and inspect.isfunction(function) and not inspect.getdoc(
                    getattr(thing, member)):
                yield f"{name}.{member}"


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module):
    assert list(undocumented(importlib.import_module(module))) == []
