"""Jobs: their drivers, their task events, their unheld objects."""
