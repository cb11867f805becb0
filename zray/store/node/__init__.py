"""The store of one node: table, room in the arena, spilling, and the service around them."""
