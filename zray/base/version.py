"""The version of zray, equal to that in pyproject.toml."""

__version__ = "0.1.0"
