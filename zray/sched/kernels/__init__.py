"""The decisions over rows of the cluster view: compiled by Numba, or in plain Python."""
