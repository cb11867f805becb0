"""Text formats and sizes on which two layers must agree."""

# A join string begins with this (zray.transport.credentials).
JOIN_SCHEME = "zray://"
# A line of a worker's output that begins with this names the task whose output follows; the node removes it.
TASK_MARKER = "\x01zray-task:"
# Bytes at the end of a log file that an error message may quote.
LOG_TAIL_BYTES = 8192


def job_log(submission_id: str) -> str:
    """The name of the log file of a submitted job."""
    return f"job-driver-{submission_id}.log"
