"""The processes of a node: zygote, workers and drivers, their starts and ends, their output."""
