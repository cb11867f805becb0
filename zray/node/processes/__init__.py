"""The processes of a node: zygote, workers and drivers, how they start and end, what they print."""
