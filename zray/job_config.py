"""JobConfig at Ray's module path."""

from zray.api.job_config import JobConfig

__all__ = ["JobConfig"]
