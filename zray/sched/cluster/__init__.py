"""Scheduling over the whole cluster: spillback, gossip, placement."""
