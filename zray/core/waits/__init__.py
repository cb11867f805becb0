"""How a thread of a program waits, and what it says meanwhile."""
