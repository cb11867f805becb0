"""Dask on the cluster: the tasks of its graphs are tasks of zray.

    from zray.util.dask import ray_dask_get
    collection.compute(scheduler=ray_dask_get)

ImportError without dask: ``pip install 'zray[dask]'``.
"""

from __future__ import annotations

from typing import Any

try:
    import dask as _dask
except ImportError as error:
    raise ImportError("To run dask on zray, install dask: pip install 'zray[dask]'") from error

from zray.util.dask.scheduler import ray_dask_get, ray_dask_get_sync

__all__ = ["disable_dask_on_ray", "enable_dask_on_ray", "ray_dask_get", "ray_dask_get_sync"]


def enable_dask_on_ray(shuffle: str | None = "tasks", use_shuffle_optimization: bool = True) -> Any:
    """Make :func:`ray_dask_get` dask's scheduler; as a context manager, for its block.

    ``shuffle`` is dask's way to shuffle data frames.  ``use_shuffle_optimization`` is accepted and ignored.
    """
    return _dask.config.set({"scheduler": ray_dask_get, "dataframe.shuffle.method": shuffle})


def disable_dask_on_ray() -> Any:
    """Give dask its own schedulers back; as a context manager, for its block."""
    return _dask.config.set({"scheduler": None, "dataframe.shuffle.method": None})
