"""Placement groups: those whose home is this node, and what a node knows of all."""
