"""The actor that runs the entrypoint of one submitted job.

It takes the resources and the runtime environment of the entrypoint, so the node places it and prepares its worker as
those of any actor.  It writes RUNNING and the end into the job's row, and then ends itself.

    it is killed, or its node dies    the keeper sees the end of its pipe and ends the entrypoint; readers of the row
                                      see that the actor is dead, and write FAILED with the reason
    the keeper is killed              all that the job started comes to the supervisor, a subreaper, which kills it
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import zray as ray
from zray.base.formats import job_log
from zray.environments import spec
from zray.handles.connection import connected
from zray.job_submission import keeper, table
from zray.job_submission.logs import machine_id
from zray.job_submission.records import JobErrorType, JobStatus
from zray.node.processes import linux

LAST_OUTPUT_CHARS = 20_000  # of the log in the message of a job that failed, as in Ray
WRITE_RETRY_S = 0.2
WRITE_DEADLINE_S = 120.0  # the control store answers again within seconds of a node's death


def actor_name(submission_id: str) -> str:
    return f"job_supervisor_{submission_id}"


class JobSupervisor:
    """See the module's docstring."""

    def __init__(self, submission_id: str):
        self.submission_id = submission_id
        self._lock = threading.Lock()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._stop = False
        self._me = ray.get_runtime_context().current_actor
        self._context = ray.get_runtime_context()
        threading.Thread(target=self._run, daemon=True, name="entrypoint").start()

    def stop(self) -> None:
        """End the entrypoint: SIGTERM, then SIGKILL after the grace time."""
        with self._lock:
            self._stop = True
            self._pass_stop()

    def _pass_stop(self) -> None:
        if self._stop and self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended
                self._keeper.stdin.write(b"stop\n")
                self._keeper.stdin.flush()

    def _run(self) -> None:
        try:
            self._supervise()
        except Exception as error:  # the row must say it; nobody waits for this thread
            self._write(status="FAILED", message=f"The supervisor of the job failed: {type(error).__name__}: {error}",
                        error_type=JobErrorType.JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE.value, end_time=table.now_ms())
        finally:
            self._me.__ray_terminate__.remote()

    def _supervise(self) -> None:
        row = table.read(self.submission_id)
        if row is None or JobStatus(row["status"]).is_terminal():
            return  # it was stopped before it began
        log = os.path.join(self._context.gcs_address, "logs", job_log(self.submission_id))
        os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        self._write(status="RUNNING", message=None, driver_node_id=self._context.get_node_id(), log=log,
                    machine=machine_id(), driver_host=socket.gethostname())
        found = self._keep(row, log)
        code = found.get("returncode")
        fields: dict[str, Any] = {"driver_exit_code": code, "end_time": table.now_ms(), "message": None}
        if found.get("error") is not None:
            fields |= {"status": "FAILED", "message": f"The entrypoint could not be started: {found['error']}",
                       "error_type": JobErrorType.JOB_ENTRYPOINT_COMMAND_START_ERROR.value}
        elif found.get("stopped"):
            fields |= {"status": "STOPPED"}
        elif "lost" in found:
            fields |= {"status": "FAILED", "error_type": JobErrorType.JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE.value,
                       "message": f"The process that watched the entrypoint ended with {found['lost']}, so the "
                                  "entrypoint and all that it started were killed. Was it killed by hand, or for lack "
                                  "of memory? Submit the job again."}
        elif code == 0:
            fields |= {"status": "SUCCEEDED"}
        else:
            fields |= {"status": "FAILED", "message": _failure(code, log),
                       "error_type": JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR.value}
        self._write(**fields)

    def _keep(self, row: table.Row, log: str) -> dict[str, Any]:
        """Run the entrypoint under a keeper; what the keeper reports of its end."""
        config = connected().config
        linux.become_subreaper()  # for what a killed keeper leaves
        earlier = linux.children(os.getpid())
        with self._lock:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=self._environment(row), start_new_session=True)
            stdin, stdout = self._keeper.stdin, self._keeper.stdout
            assert stdin is not None and stdout is not None
            stdin.write(json.dumps({"entrypoint": row["entrypoint"], "log": log, "log_bytes_max": config.log_bytes_max,
                                    "grace_s": config.job_stop_grace_s}).encode() + b"\n")
            stdin.flush()
            self._pass_stop()
        reports: dict[str, Any] = {}
        for line in stdout:
            reports |= json.loads(line)
        code = self._keeper.wait()
        with self._lock, contextlib.suppress(OSError):
            stdin.close()
        stdout.close()
        if "returncode" not in reports and "error" not in reports:
            linux.end_descendants(earlier)
            if "pid" not in reports:
                reports["error"] = f"the process that watches it ended with {_ending(code)}"
            elif self._stop:
                reports["stopped"] = True
            else:
                reports["lost"] = _ending(code)
        return reports

    def _environment(self, row: table.Row) -> dict[str, str]:
        """That of this worker, which has the job's runtime environment, and the way to the cluster."""
        env = dict(os.environ)
        env["ZRAY_ADDRESS"] = self._context.gcs_address
        env["ZRAY_JOB_SUBMISSION_ID"] = self.submission_id
        if row.get("runtime_env"):
            env["ZRAY_RUNTIME_ENV"] = json.dumps(_runtime_env(self._context.runtime_env))
        if not row.get("entrypoint_num_cpus") and "OMP_NUM_THREADS" not in _variables_at_start():
            env.pop("OMP_NUM_THREADS", None)  # zray set it for the lease of this actor
        env["PYTHONUNBUFFERED"] = env.get("PYTHONUNBUFFERED", "1")  # else the log lags behind by a buffer
        programs = os.path.dirname(sys.executable)
        if env.get("PATH", "").split(os.pathsep)[0] != programs:
            env["PATH"] = os.pathsep.join(filter(None, (programs, env.get("PATH", os.defpath))))
        return env

    def _write(self, **fields: Any) -> None:
        """Change the row; patiently, since the control store may choose other replicas just now."""
        deadline = time.monotonic() + WRITE_DEADLINE_S
        while True:
            try:
                table.update(self.submission_id, **fields)
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(WRITE_RETRY_S)


def _runtime_env(own: dict[str, Any]) -> dict[str, Any]:
    """The runtime environment of this actor, for the drivers that its entrypoint starts.

    Local paths in the one that was submitted mean nothing here.  Its packages are stored for the job that submitted
    it, and a driver is a job of its own: it stores them again, from the folders in which they are on this node.
    """
    out, here = spec.written(own), connected().process.equipment
    if out.get("working_dir"):
        out["working_dir"] = here["working_dir"]
    if "py_modules" in out:
        out["py_modules"] = [place for address, folder in zip(out["py_modules"], here["paths"], strict=True)
                             for place in _places(address, folder)]
    return out


def _places(address: str, folder: str) -> list[str]:
    """What a driver names to get the modules of a package that is in ``folder``."""
    if spec.scheme_of(address) != spec.PACKAGE_SCHEME:
        return [address]  # any job can download it
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name != "__pycache__"]
    return [path for path in paths if path.endswith(".py") or os.path.isdir(path)]


def _variables_at_start() -> set[str]:
    """The names of the environment of the node's process."""
    with open("/proc/self/environ", "rb") as file:
        return {entry.partition(b"=")[0].decode(errors="replace") for entry in file.read().split(b"\0")}


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _failure(code: int | None, log: str) -> str:
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4 * LAST_OUTPUT_CHARS))
        text = file.read().decode(errors="replace")[-LAST_OUTPUT_CHARS:]
        if text:
            return (f"Job entrypoint command failed with {_ending(code)}, last available logs (truncated to "
                    f"{LAST_OUTPUT_CHARS:,} chars):\n{text}")
    return f"Job entrypoint command failed with {_ending(code)}. No logs available."


