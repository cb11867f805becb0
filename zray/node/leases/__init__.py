"""Leases of workers: from a want to a worker, on this node and on others."""
