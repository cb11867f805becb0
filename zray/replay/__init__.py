"""Runs of a recording (zray.recording), run again in one process: the command ``zray replay``."""
