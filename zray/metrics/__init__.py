"""Metrics of user code and of nodes: recorded in processes, added up on their node, shown as Prometheus text.  Pure."""
