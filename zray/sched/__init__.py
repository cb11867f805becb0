"""Scheduling: exact resources, the cluster view, policies, and the local scheduler of a node.  All pure.

Importing this package loads neither numpy nor Numba; ``loading.Kernels.load()`` loads both.
"""
