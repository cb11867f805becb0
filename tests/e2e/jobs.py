"""Submitted jobs, as the tests of them look at them."""

from __future__ import annotations

from tests.e2e.target import until

STATUS_S = 5.0  # within which a status is right after any death


def wait(client, job, *statuses, within_s=30.0):
    """Until the job has one of these statuses (any end without one); its details."""
    def there():
        details = client.get_job_info(job)
        return details if (details.status in statuses if statuses else details.status.is_terminal()) else None
    return until(there, lambda: f"{job} comes to {statuses}: {client.get_job_info(job)}", within_s)


def started(client, job, text="ready"):
    """Until the job has printed a text."""
    until(lambda: text in client.get_job_logs(job), lambda: f"it prints {text!r}: {client.get_job_info(job)}")


def pids(client, job):
    """The numbers that the job has printed, a line each."""
    return [int(line) for line in client.get_job_logs(job).split() if line.isdigit()]
