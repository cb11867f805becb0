"""A mixed workload on a cluster of real daemons, while processes are killed, stopped, cut off and starved.

    python -m fuzz.chaos --seed 1 --minutes 2

Every result is compared with the answer of a plain loop.  docs/internals/chaos.md says what counts as a failure, and
how to widen it.
"""
