"""joblib, and with it scikit-learn, on the cluster.

    from zray.util.joblib import register_ray
    register_ray()
    with joblib.parallel_backend("ray"):
        search.fit(X, y)
"""

from __future__ import annotations

__all__ = ["register_ray", "register_zray"]


def register_ray() -> None:
    """Make "ray" a backend of joblib, for ``joblib.parallel_backend("ray")``; "zray" is the same one.

    ImportError without joblib: ``pip install 'zray[joblib]'``.
    """
    try:
        from joblib.parallel import register_parallel_backend
    except ImportError as error:
        raise ImportError("To use zray as a joblib backend, install joblib: pip install 'zray[joblib]'") from error
    from zray.util.joblib.backend import ZrayBackend

    register_parallel_backend("ray", ZrayBackend)
    register_parallel_backend("zray", ZrayBackend)


register_zray = register_ray
