"""A running node and its session: options, start, stop, directory, log; how commands find and ask it."""
