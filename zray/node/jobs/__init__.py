"""Jobs: their drivers, their task events, what is left of them."""
