"""Runtime environments of a node: which are installed, who waits for them, and the process that installs one."""
