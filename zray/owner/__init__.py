"""The owner: tasks, references, leases, actor calls of one core process.  Pure: no I/O, no clock, no pickle."""
