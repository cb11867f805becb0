"""Modules that every other module may import: ids, errors, causes, settings, calls of the operating system."""
