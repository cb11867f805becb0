"""The rows of submitted jobs in the control store: bounded, the oldest that ended leave first, with their logs."""

from __future__ import annotations

import json
import time
from typing import Any

from zray.experimental import internal_kv as kv
from zray.job_submission import logs
from zray.job_submission.records import JobInfo, JobStatus

NAMESPACE = "zray-submitted-jobs"
JOBS_MAX = 1000  # a row has some 500 bytes; reading all takes some 0.3 s
ROW_BYTES_MAX = 256 * 1024
_INFO_FIELDS = ("status", "entrypoint", "message", "error_type", "start_time", "end_time", "metadata", "runtime_env",
                "entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources",
                "driver_node_id", "driver_exit_code")

Row = dict[str, Any]


def now_ms() -> int:
    return int(time.time() * 1000)


def add(row: Row) -> None:
    """A new job.  RuntimeError when its id is taken, or when no room can be made."""
    data = _packed(row)
    _make_room()
    if kv._internal_kv_put(row["submission_id"], data, overwrite=False, namespace=NAMESPACE):
        raise RuntimeError(f"Job with submission_id {row['submission_id']} already exists. Please use a different "
                           "submission_id.")


def update(submission_id: str, **fields: Any) -> Row | None:
    """Change fields of a row whose job has not ended; returns the row as it is then, None without one.

    The client that submits, the supervisor, and whoever finds the supervisor dead write at the same time.  So the row
    is replaced only if it is still the one that was read: no write undoes another, and none brings a deleted row back.
    """
    while True:
        data = _read(submission_id)
        if data is None:
            return None
        row: Row = json.loads(data)
        if not fields or JobStatus(row["status"]).is_terminal():
            return row
        changed = {**row, **fields}
        if kv.swap(submission_id, data, _packed(changed), namespace=NAMESPACE):
            return changed


def _read(submission_id: str) -> bytes | None:
    return kv._internal_kv_get(submission_id, namespace=NAMESPACE)


def read(submission_id: str) -> Row | None:
    data = _read(submission_id)
    return None if data is None else json.loads(data)


def read_all() -> list[Row]:
    """Every row, the oldest first."""
    names = [name.decode() for name in kv._internal_kv_list("", namespace=NAMESPACE)]
    return sorted((row for row in map(read, names) if row is not None), key=lambda row: row["start_time"])


def delete(submission_id: str) -> bool:
    return bool(kv._internal_kv_del(submission_id, namespace=NAMESPACE))


def info_of(row: Row) -> JobInfo:
    known: dict[str, Any] = {name: row.get(name) for name in _INFO_FIELDS}
    return JobInfo(**known)


def _packed(row: Row) -> bytes:
    try:
        data = json.dumps(row).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"the runtime_env and the metadata of a job must be JSON: {error}") from None
    if len(data) > ROW_BYTES_MAX:
        raise ValueError(f"the entrypoint, metadata and runtime_env of job {row['submission_id']} take {len(data)} "
                         f"bytes, at most {ROW_BYTES_MAX} are kept: put long data into files")
    return data


def _make_room() -> None:
    if len(kv._internal_kv_list("", namespace=NAMESPACE)) < JOBS_MAX:
        return
    rows = read_all()
    ended = [row for row in rows if JobStatus(row["status"]).is_terminal()]
    if len(rows) >= JOBS_MAX and not ended:
        raise RuntimeError(f"{len(rows)} submitted jobs have not ended, and no more than {JOBS_MAX} are kept: wait for "
                           "some to end, or stop some")
    for row in ended[:max(0, len(rows) - JOBS_MAX + 1)]:
        logs.remove(row)
        delete(row["submission_id"])
