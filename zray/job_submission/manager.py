"""What a client can ask of submitted jobs, in a process that is connected to the cluster."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import string
import time
from dataclasses import asdict
from typing import Any

import zray as ray
from zray.base.causes import Cause
from zray.base.errors import how_it_ended
from zray.base.named_tuples import NamedTuple
from zray.base.plain_numbers import plain
from zray.handles.connection import connected
from zray.handles.remote import ActorHandle
from zray.job_submission import logs, supervisor, table
from zray.job_submission.records import JobErrorType, JobStatus
from zray.state import rows as state_rows
from zray.state.places import Places

AGENT_NAMESPACE = "zray-job-clients"  # of the drivers behind clients, which are no jobs of users
# Without a row of its supervisor anywhere, a job counts as running this long: another node adopts the row when the node
# that kept it dies, in some 9 s.
MISSING_S = 15.0
STOP_ASK_S = 10.0  # for a supervisor to take the request
STOP_PENDING_S = 10.0  # for an actor that did not start yet to be gone
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
_LETTERS = string.ascii_letters + string.digits
_AMOUNTS = {"entrypoint_num_cpus": "num_cpus", "entrypoint_num_gpus": "num_gpus", "entrypoint_memory": "memory"}


class Driver(NamedTuple):
    """A program that connected: its row as JobDetails has it, and its namespace."""

    row: dict[str, Any]
    namespace: str


class JobManager:
    """Submit, look at, stop and delete jobs."""

    def __init__(self) -> None:
        self._missing: dict[str, float] = {}  # since when no node knows the supervisor of a job

    # ---- submit

    def submit(self, *, entrypoint: str, submission_id: str | None = None, runtime_env: dict[str, Any] | None = None,
               metadata: dict[str, str] | None = None, entrypoint_num_cpus: float | None = None,
               entrypoint_num_gpus: float | None = None, entrypoint_memory: int | None = None,
               entrypoint_resources: dict[str, float] | None = None,
               entrypoint_label_selector: dict[str, str] | None = None) -> str:
        """Start a job; returns its submission id."""
        amounts = {"entrypoint_num_cpus": entrypoint_num_cpus, "entrypoint_num_gpus": entrypoint_num_gpus,
                   "entrypoint_memory": entrypoint_memory}
        _check(entrypoint, submission_id, runtime_env, metadata, amounts)
        submission_id = submission_id or "raysubmit_" + "".join(secrets.choice(_LETTERS) for _ in range(16))
        options = {option: plain(amounts[name]) for name, option in _AMOUNTS.items() if amounts[name] is not None}
        options = {"num_cpus": 0, **options, "resources": entrypoint_resources or None,
                   "runtime_env": runtime_env or None, "label_selector": entrypoint_label_selector or None}
        actor_class = ray.remote(supervisor.JobSupervisor).options(
            **options, name=supervisor.actor_name(submission_id), namespace=table.NAMESPACE, lifetime="detached",
            max_restarts=0, max_concurrency=1)  # wrong options raise here, before there is a row
        table.add({
            "submission_id": submission_id, "entrypoint": entrypoint, "status": "PENDING", "start_time": table.now_ms(),
            "metadata": metadata or {}, "runtime_env": runtime_env or {}, **amounts,
            "entrypoint_resources": entrypoint_resources})
        try:
            actor: Any = actor_class.remote(submission_id)
            table.update(submission_id, actor=actor._actor.hex(), actor_meta=actor._meta.hex())
        except BaseException:
            table.delete(submission_id)
            raise
        return submission_id

    # ---- look

    def row(self, submission_id: str) -> table.Row:
        """The job as it is now.  RuntimeError when there is none."""
        row = table.read(submission_id)
        if row is None:
            row = self._by_job_id(submission_id)
        if row is None:
            raise RuntimeError(f"Job {submission_id} does not exist: no job with that submission id was submitted to "
                               "this cluster, or it was deleted")
        return self._judged(row)

    def _by_job_id(self, job_id: str) -> table.Row | None:
        """The submitted job whose driver has that job id."""
        drivers = [job for job in connected().query("jobs")["jobs"] if _job_hex(job["job_id"]) == job_id]
        return table.read(drivers[0]["submission_id"]) if drivers and drivers[0].get("submission_id") else None

    def details(self, submission_id: str) -> dict[str, Any]:
        """A map of JobDetails."""
        row = self.row(submission_id)
        details = self._details(row, _drivers())
        if row["status"] == "PENDING" and (why := self._why_pending(row)):
            details["message"] += f" Now {why}."
        return details

    def _why_pending(self, row: table.Row) -> str:
        cause = (self._actor_row(row) or {}).get("death_cause") or {}
        if "cause" not in cause:
            return ""
        text = Cause(cause["cause"]).text.replace("its task", "its entrypoint").replace("its actor", "its supervisor")
        return f"{text}: {cause['detail']}" if cause.get("detail") else text

    def all_details(self) -> list[dict[str, Any]]:
        """All submitted jobs, then the drivers that came by themselves, the newest first."""
        drivers = _drivers()
        submitted = [self._details(self._judged(row), drivers) for row in table.read_all()]
        others = [driver.row for driver in drivers
                  if driver.row["type"] == "DRIVER" and driver.namespace != AGENT_NAMESPACE]
        return [*reversed(submitted), *reversed(others)]

    def _details(self, row: table.Row, drivers: list[Driver]) -> dict[str, Any]:
        info = asdict(table.info_of(row))
        for name in (*_AMOUNTS, "entrypoint_resources"):
            del info[name]
        ours = [driver.row for driver in drivers if driver.row["submission_id"] == row["submission_id"]]
        driver = ours[-1]["driver_info"] if ours else None
        return {**info, "type": "SUBMISSION", "submission_id": row["submission_id"],
                "job_id": driver["id"] if driver else None, "driver_info": driver}

    def _judged(self, row: table.Row) -> table.Row:
        """The row; FAILED, also in the control store, when its supervisor is dead and could not write that."""
        if JobStatus(row["status"]).is_terminal():
            self._missing.pop(row["submission_id"], None)
            return row
        death = self._death(row)
        if death is None:
            return row
        again = table.update(row["submission_id"])  # a supervisor writes before it ends, so this is its last word
        if again is None or JobStatus(again["status"]).is_terminal():
            return again or row
        kind, reason = death
        return table.update(row["submission_id"], status="FAILED", message=reason, error_type=kind.value,
                            end_time=table.now_ms()) or again

    def _death(self, row: table.Row) -> tuple[JobErrorType, str] | None:
        """Why the supervisor of a job is dead; None when it lives, or may still come."""
        name = row["submission_id"]
        found = self._actor_row(row)
        if found is not None and found["state"] != "DEAD":
            self._missing.pop(name, None)
            return None
        node = row.get("driver_node_id")
        dead = _dead_nodes()
        if node in dead:
            return JobErrorType.JOB_SUPERVISOR_ACTOR_DIED, (
                f"The node on which the job ran, {node} ({row.get('driver_host', '')}), died: {dead[node]}")
        if found is not None:
            return self._cause(row, found)
        since = self._missing.setdefault(name, time.monotonic())
        if time.monotonic() - since < MISSING_S:
            return None
        return JobErrorType.JOB_SUPERVISOR_ACTOR_DIED, "The supervisor of the job is gone, and no node knows why."

    def _cause(self, row: table.Row, actor: dict[str, Any]) -> tuple[JobErrorType, str]:
        """Why a supervisor is dead, from what the cluster knows of it."""
        if row.get("driver_node_id") is not None:
            return JobErrorType.JOB_SUPERVISOR_ACTOR_DIED, f"The supervisor of the job died: {_reason(actor)}"
        text = _reason(actor)
        handle = ActorHandle._restore(bytes.fromhex(row["actor"]), bytes.fromhex(row["actor_meta"]), None)
        try:  # a call of a dead actor has the whole error of its constructor
            ray.get(handle.stop.remote(), timeout=STOP_ASK_S)
        except ray.exceptions.GetTimeoutError:
            pass
        except ray.exceptions.RayError as error:
            text = str(error)
        kind = (JobErrorType.RUNTIME_ENV_SETUP_FAILURE if "RuntimeEnvSetupError" in text
                else JobErrorType.JOB_SUPERVISOR_ACTOR_START_FAILURE)
        return kind, f"The supervisor of the job could not start: {text}"

    def _actor_row(self, row: table.Row) -> dict[str, Any] | None:
        """What the cluster knows of the job's supervisor; None for nothing."""
        if row.get("actor") is None:
            return None
        rows = connected().query("actors", actor=bytes.fromhex(row["actor"]))["actors"]
        return min(rows, key=lambda found: found["state"] == "DEAD", default=None)

    # ---- stop and delete

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end; whether it was running or waiting."""
        row = self.row(submission_id)
        if JobStatus(row["status"]).is_terminal():
            return False
        try:
            actor = ray.get_actor(supervisor.actor_name(row["submission_id"]), table.NAMESPACE)
        except ValueError:  # it is ending just now, or its name's node
            return not JobStatus(self.row(submission_id)["status"]).is_terminal()
        found = self._actor_row(row)
        if found is not None and found["state"] == "ALIVE":
            with contextlib.suppress(ray.exceptions.RayError):  # it is ending just now
                ray.get(actor.stop.remote(), timeout=STOP_ASK_S)
            return True
        ray.kill(actor)
        end = time.monotonic() + STOP_PENDING_S
        while (found := self._actor_row(row)) is not None and found["state"] != "DEAD" and time.monotonic() < end:
            time.sleep(0.01)
        table.update(row["submission_id"], status="STOPPED", message=None, end_time=table.now_ms())
        return True

    def delete(self, submission_id: str) -> bool:
        """Forget a job that has ended, and its log."""
        row = self.row(submission_id)
        if not JobStatus(row["status"]).is_terminal():
            raise RuntimeError(f"Attempted to delete job '{submission_id}', but it is in a non-terminal state "
                               f"{row['status']}. Stop it first.")
        logs.remove(row)
        return table.delete(row["submission_id"])

    # ---- logs

    def log_piece(self, submission_id: str, offset: int) -> tuple[bytes, str]:
        """A piece of the log from ``offset``, and the status before it was read."""
        row = self.row(submission_id)
        return logs.read_piece(row, offset), row["status"]


def _check(entrypoint: Any, submission_id: Any, runtime_env: Any, metadata: Any, amounts: dict[str, Any]) -> None:
    if not isinstance(entrypoint, str):
        raise TypeError(f"entrypoint must be a string, got {type(entrypoint)}")
    if not entrypoint.strip() or "\0" in entrypoint:
        raise ValueError("entrypoint must be a command for the shell, and is empty")
    if submission_id is not None and (not isinstance(submission_id, str) or not _ID.fullmatch(submission_id)):
        raise ValueError(f"submission_id {submission_id!r}: up to 128 letters, digits and _ . : - are allowed, since "
                         "it names a log file")
    if runtime_env is not None and not isinstance(runtime_env, dict):
        raise TypeError(f"runtime_env must be a dict, got {type(runtime_env)}")
    if metadata is not None:
        if not isinstance(metadata, dict):
            raise TypeError(f"metadata must be a dict, got {type(metadata)}")
        for key, value in metadata.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"metadata keys and values must be strings, got {key!r}: {value!r}")
    for name, amount in amounts.items():
        amount = plain(amount)
        if amount is None:
            continue
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(amount)}")
        if not 0 <= amount < math.inf:
            raise ValueError(f"{name} must not be negative, got {amount}")


def _drivers() -> list[Driver]:
    """The drivers of the cluster, the oldest first."""
    found = connected().query("jobs")["jobs"]
    places = Places(connected().query("nodes")["nodes"])
    rows = [state_rows.job(row, places) for row in found]
    return [Driver({**row, "end_time": row["end_time"] or None}, raw["namespace"])
            for row, raw in zip(rows, found, strict=True)]


def _job_hex(number: int) -> str:
    return ray.JobID.from_int(number).hex()


def _dead_nodes() -> dict[str, str]:
    return {node["NodeID"]: str(node.get("DeathReasonMessage") or node["State"])
            for node in connected().query("nodes")["nodes"] if node["State"] in ("dead", "left")}


def _reason(actor: dict[str, Any]) -> str:
    cause = actor.get("death_cause") or {}
    return (cause.get("reason") or cause.get("detail")
            or f"its process (pid={cause.get('pid') or '?'}) {how_it_ended(cause)}")


def session_dir_here() -> str | None:
    """The session to which this process is connected."""
    from zray.handles.connection import current

    runtime = current()
    endpoint = getattr(runtime, "endpoint", "")
    return os.path.dirname(endpoint.removeprefix("ipc://")) if endpoint else None
