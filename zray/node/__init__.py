"""The node: pure machines (pool, actors, jobs, machine) and their shells (zygote, output, daemon, launch)."""
