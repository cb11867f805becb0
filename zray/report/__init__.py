"""Reports of runs: one HTML page about a session that runs or has ended, for `zray report`."""
