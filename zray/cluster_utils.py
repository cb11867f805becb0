"""Clusters of several nodes on this machine, at Ray's module path."""

from zray.api.cluster import Cluster, ClusterNode

__all__ = ["Cluster", "ClusterNode"]
