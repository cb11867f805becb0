"""The global control store: one replicated state machine of small tables, kept by a chain of replicas."""
