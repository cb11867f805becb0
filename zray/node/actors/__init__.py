"""Actors: those whose home is this node, those that live here, and those that are called from here."""
