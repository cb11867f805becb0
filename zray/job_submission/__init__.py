"""Submit programs to a cluster: they run on one of its nodes, under supervision, and their logs stay."""

from zray.job_submission.client import JobSubmissionClient
from zray.job_submission.records import DriverInfo, JobDetails, JobErrorType, JobInfo, JobStatus, JobType

__all__ = [
    "DriverInfo",
    "JobDetails",
    "JobErrorType",
    "JobInfo",
    "JobStatus",
    "JobSubmissionClient",
    "JobType",
]
