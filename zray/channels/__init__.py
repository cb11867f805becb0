"""Channels of low latency between processes of one node: shared memory that carries, sockets that wake."""
