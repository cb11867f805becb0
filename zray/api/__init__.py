"""The calls of a program: init, get, put, wait and the others; local mode; logging."""
