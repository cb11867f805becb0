"""One replica of the control store: its tables, its place in the chain, its files."""
