"""Bytes between processes: envelope, session, faults (pure); mesh, loop (shells).  Knows peers, not message classes."""
