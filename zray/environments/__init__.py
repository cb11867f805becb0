"""Runtime environments as data: what users write, how environments merge, and packages of local code."""
