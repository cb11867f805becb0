"""Deterministic simulation of zray's machines: clock, network, checkers.  The runtime never imports this package."""
