"""``request_resources``: checked, and without effect, since zray starts no machines."""

from __future__ import annotations

__all__ = ["request_resources"]


def request_resources(num_cpus: int | None = None, bundles: list[dict[str, float]] | None = None,
                      bundle_label_selectors: list[dict[str, str]] | None = None) -> None:
    """Ray's hint to scale a cluster up to these resources; a cluster of zray has the nodes that joined it."""
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError("num_cpus should be of type int.")
    if bundles is not None and not (isinstance(bundles, list) and all(isinstance(one, dict) for one in bundles)):
        raise TypeError("bundles should be a list of dicts of resources.")
    if bundle_label_selectors is not None and len(bundle_label_selectors) != len(bundles or ()):
        raise ValueError("bundle_label_selectors has one selector for each of the bundles.")
