"""Jobs: one driver each.  Pure.

A job begins with RegisterDriver and ends when its driver says Goodbye or its process is gone.  The record stays as
long as a detached actor of the job needs its configuration (sys.path, working directory, environment) for restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ENDED_JOBS_MAX = 1000
JOB_BITS = 16  # job numbers are unique in the cluster: the ordinal of the driver's node, then its own counting


class Job:
    """One driver and all work that it started."""

    __slots__ = (
        "announced_used", "config", "driver", "dropped", "ended", "homes", "informed", "number", "pid", "resume",
        "started")

    def __init__(self, number: int, driver: bytes, pid: int, config: dict, now: float):
        self.number = number
        self.driver = driver
        self.pid = pid
        self.config = config
        self.started = now
        self.ended = 0.0
        self.dropped = False  # its objects are gone
        self.informed: set[bytes] = set()  # other nodes that got JobStart from us
        self.homes: set[bytes] = set()  # other nodes with the home of an actor that outlives the driver
        self.resume: dict[str, int] = {}  # what became of the tasks of a driver with kept results
        self.announced_used = False  # this node has announced that it is such a home

    @property
    def is_over(self) -> bool:
        return self.ended > 0.0

    def row(self) -> dict[str, Any]:
        """As the state API shows it."""
        return {"job_id": self.number, "status": "SUCCEEDED" if self.is_over else "RUNNING", "driver_pid": self.pid,
                "entrypoint": self.config.get("entrypoint", ""), "namespace": self.config.get("namespace", ""),
                "submission_id": self.config.get("submission_id", ""),
                "job_name": self.config.get("job_name", ""), "resume": self.resume,
                "start_time": self.started, "end_time": self.ended}


class JobTable:
    """The jobs of this node by number and by driver."""

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self.jobs: dict[int, Job] = {}
        self.by_driver: dict[bytes, Job] = {}
        self._forgotten: list[int] = []

    def register(self, driver: bytes, pid: int, config: dict, now: float) -> Job:
        """The driver's job, a new one unless it has one (a retry of its request)."""
        job = self.by_driver.get(driver)
        if job is None:
            job = Job(self._next, driver, pid, config, now)
            self._next += 1
            self.jobs[job.number] = job
            self.by_driver[driver] = job
        return job

    def foreign(self, number: int, driver: bytes, config: dict, now: float) -> Job:
        """A job whose driver is on another node, which announced it; repeats are harmless."""
        job = self.jobs.get(number)
        if job is None:
            job = self.jobs[number] = Job(number, driver, 0, config, now)
            self.by_driver[driver] = job
        return job

    def about(self, number: int) -> list[Any]:
        """[driver, config] of a job; [] when it is unknown here."""
        job = self.jobs.get(number)
        return [job.driver, job.config] if job is not None else []

    def over(self, driver: bytes, now: float, is_used: Callable[[int], bool] = lambda number: False) -> Job | None:
        """The driver is gone; its job, or None when it had none.  Old jobs are forgotten unless ``is_used``."""
        job = self.by_driver.pop(driver, None)
        if job is not None:
            job.ended = max(now, 1e-9)
            ended = [j.number for j in self.jobs.values() if j.is_over]
            for number in ended[:max(0, len(ended) - ENDED_JOBS_MAX)]:
                if not is_used(number):
                    del self.jobs[number]
                    self._forgotten.append(number)
        return job

    def forgotten(self) -> list[int]:
        """Jobs forgotten since the last call."""
        numbers, self._forgotten = self._forgotten, []
        return numbers

    def check(self) -> None:
        for driver, job in self.by_driver.items():
            assert job.driver == driver and not job.is_over and self.jobs[job.number] is job
        assert sum(not job.is_over for job in self.jobs.values()) == len(self.by_driver)
