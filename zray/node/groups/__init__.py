"""Placement groups: those whose home is this node, and the directory of all known ones."""
