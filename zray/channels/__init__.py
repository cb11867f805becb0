"""Channels of low latency between processes of one node: sockets that wake, shared memory that carries."""
