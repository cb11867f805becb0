"""Which owner gets which resources of one node next; bundles of placement groups."""
