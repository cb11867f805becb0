"""What is known of a submitted job, in the names and fields of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """The state of a submitted job: PENDING, RUNNING, then one of STOPPED, SUCCEEDED and FAILED for ever."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        """Whether no other status can follow."""
        return self in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)


class JobErrorType(StrEnum):
    """Why a job failed."""

    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    JOB_SUPERVISOR_ACTOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    JOB_SUPERVISOR_ACTOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    JOB_SUPERVISOR_ACTOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    JOB_ENTRYPOINT_COMMAND_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    JOB_ENTRYPOINT_COMMAND_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


class JobType(StrEnum):
    """How a job came to be: by submission, or as a program that connected."""

    SUBMISSION = "SUBMISSION"
    DRIVER = "DRIVER"


@dataclass
class DriverInfo:
    """The program of a job that is connected, or was last."""

    id: str  # the job id
    node_ip_address: str
    pid: str


@dataclass
class JobInfo:
    """A submitted job.  Times are Unix timestamps in ms; a missing message is that of the status."""

    status: JobStatus
    entrypoint: str
    message: str | None = None
    error_type: JobErrorType | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_memory: int | None = None
    entrypoint_resources: dict[str, float] | None = None
    driver_agent_http_address: str | None = None  # always None: zray opens no HTTP port for jobs
    driver_node_id: str | None = None
    driver_exit_code: int | None = None  # negative: the number of the signal that ended it

    def __post_init__(self) -> None:
        self.status = JobStatus(self.status)
        if self.error_type is not None:
            self.error_type = JobErrorType(self.error_type)
        if self.message is None:
            self.message = self._usual_message()

    def _usual_message(self) -> str:
        if self.status is not JobStatus.PENDING:
            return {JobStatus.RUNNING: "Job is currently running.", JobStatus.STOPPED: "Job was intentionally stopped.",
                    JobStatus.SUCCEEDED: "Job finished successfully.", JobStatus.FAILED: "Job failed."}[self.status]
        text = "Job has not started yet."
        if any((self.entrypoint_num_cpus, self.entrypoint_num_gpus, self.entrypoint_memory, self.entrypoint_resources)):
            text += " It may be waiting for resources (CPUs, GPUs, memory, custom resources) to become available."
        if self.runtime_env:
            text += " It may be waiting for the runtime environment to be set up."
        return text


@dataclass
class JobDetails:
    """A job of the cluster: a submitted one, or (``type`` DRIVER) a program that connected by itself."""

    type: JobType
    status: JobStatus
    entrypoint: str
    job_id: str | None = None  # of the driver; None before it connects
    submission_id: str | None = None
    driver_info: DriverInfo | None = None
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None  # Unix timestamps in ms
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None
    job_name: str = ""  # zray's own, as the next: what the program gave to init
    resume: dict[str, int] | None = None  # counts of a job with resume=True, see zray.core.resuming

    def __post_init__(self) -> None:
        self.type = JobType(self.type)
        self.status = JobStatus(self.status)
        if isinstance(self.driver_info, dict):
            self.driver_info = DriverInfo(**self.driver_info)
