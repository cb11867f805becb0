"""JobSubmissionClient: submit programs to a cluster and follow them."""

from __future__ import annotations

import asyncio
import base64
import codecs
import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import urlsplit

from zray.job_submission.agent import ERROR_TYPES
from zray.job_submission.manager import session_dir_here
from zray.job_submission.records import JobDetails, JobStatus
from zray.node.running import launch

FOLLOW_S = 0.2  # between two looks at a log that is followed
END_S = 10.0  # for the agent to say goodbye
# A client may be in a submitted job; what it submits is another one.
_OF_A_JOB = ("ZRAY_JOB_SUBMISSION_ID", "ZRAY_RUNTIME_ENV", "RAY_RUNTIME_ENV")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class JobSubmissionClient:
    """Submits jobs to a cluster that has a node on this machine.

    ``address`` as for ``init``: "auto", a session directory, "host:port" of a node here, a join string or "@FILE" with
    one; None takes ``ZRAY_ADDRESS`` or ``RAY_ADDRESS``, then the cluster of this program, then "auto".  An HTTP address
    of this machine means None, for programs written for Ray: zray has no HTTP port.  ConnectionError when nothing runs
    there.

    All calls raise RuntimeError when the job does not exist or the cluster does not answer.  The connection does not
    depend on ``init``; it is that of a process which ends with :meth:`close` or with this one.
    """

    def __init__(self, address: str | None = None, create_cluster_if_needed: bool = False,
                 cookies: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None,
                 headers: dict[str, Any] | None = None, verify: str | bool | None = True, **kwargs: Any):
        if address is not None and not isinstance(address, str):
            raise TypeError(f"address must be a string, got {type(address)}")
        self._address = launch.find_session(_resolved(address), asks=True).session_dir
        self._metadata = dict(metadata or {})
        self._lock = threading.Lock()
        self._agent: subprocess.Popen[str] | None = None
        self._agent_of = 0  # the process that started it: a fork must not use it
        self._end: Any = None

    def get_address(self) -> str:
        """The directory of the session that it talks to."""
        return self._address

    def submit_job(self, *, entrypoint: str, job_id: str | None = None, runtime_env: dict[str, Any] | None = None,
                   metadata: dict[str, str] | None = None, submission_id: str | None = None,
                   entrypoint_num_cpus: float | None = None, entrypoint_num_gpus: float | None = None,
                   entrypoint_memory: int | None = None, entrypoint_resources: dict[str, float] | None = None,
                   entrypoint_label_selector: dict[str, str] | None = None) -> str:
        """Run a command for the shell on a node of the cluster; returns its submission id at once.

        ``entrypoint_num_cpus``, ``entrypoint_num_gpus``, ``entrypoint_memory`` (bytes), ``entrypoint_resources`` and
        ``entrypoint_label_selector`` are of the command itself: it takes none by default.  ``runtime_env`` is also the
        one of its driver.  TypeError or ValueError for wrong arguments; RuntimeError when the id is taken.
        """
        return self._ask(
            "submit", entrypoint=entrypoint, submission_id=submission_id or job_id,
            runtime_env=_with_whole_paths(runtime_env),
            metadata={**self._metadata, **metadata} if isinstance(metadata, dict) and self._metadata
            else metadata if metadata is not None else self._metadata or None,
            entrypoint_num_cpus=entrypoint_num_cpus, entrypoint_num_gpus=entrypoint_num_gpus,
            entrypoint_memory=entrypoint_memory, entrypoint_resources=entrypoint_resources,
            entrypoint_label_selector=entrypoint_label_selector)

    def get_job_status(self, job_id: str) -> JobStatus:
        """The state of a job."""
        return self.get_job_info(job_id).status

    def get_job_info(self, job_id: str) -> JobDetails:
        """A job, by its submission id or the job id of its driver."""
        return JobDetails(**self._ask("details", submission_id=job_id))

    def list_jobs(self) -> list[JobDetails]:
        """Submitted jobs, then programs that connected by themselves; the newest of each first."""
        return [JobDetails(**details) for details in self._ask("list")]

    def stop_job(self, job_id: str) -> bool:
        """Ask a job to end: SIGTERM, then SIGKILL after ``job_stop_grace_s``.  False when it had ended before."""
        return self._ask("stop", submission_id=job_id)

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended, with its log.  RuntimeError when it has not ended."""
        return self._ask("delete", submission_id=job_id)

    def get_job_logs(self, job_id: str) -> str:
        """All that the job has printed."""
        pieces = []
        offset = 0
        while piece := self._log_piece(job_id, offset)[0]:
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces).decode(errors="replace")

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What the job prints, from the beginning, until it has ended."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset = 0
        while True:
            piece, status = await asyncio.to_thread(self._log_piece, job_id, offset)
            offset += len(piece)
            if text := decoder.decode(piece):
                yield text
            if not piece:
                if JobStatus(status).is_terminal():  # the status is older than the piece
                    break
                await asyncio.sleep(FOLLOW_S)
        if text := decoder.decode(b"", True):
            yield text

    def _log_piece(self, job_id: str, offset: int) -> tuple[bytes, str]:
        encoded, status = self._ask("log_piece", submission_id=job_id, offset=offset)
        return base64.b64decode(encoded), status

    # ---- the process that is connected

    def _ask(self, name: str, **args: Any) -> Any:
        try:
            line = json.dumps({"call": name, "args": args})
        except (TypeError, ValueError) as error:
            raise TypeError(f"the arguments of a job must be JSON: {error}") from None
        with self._lock:
            agent = self._running()
            assert agent.stdin is not None and agent.stdout is not None
            try:
                agent.stdin.write(line + "\n")
                agent.stdin.flush()
                answer = agent.stdout.readline()
            except BrokenPipeError:
                answer = ""
            except BaseException:  # also KeyboardInterrupt: the answer would be taken for that to the next question
                self._drop()
                raise
            if not answer:
                self._drop()
                raise RuntimeError(f"the connection to the cluster in {self._address} broke (its process ended with "
                                   f"{agent.returncode}): does the node still run?")
            found = json.loads(answer)
            if found.get("last"):
                self._drop()
        if "error" in found:
            raise ERROR_TYPES.get(found["kind"], RuntimeError)(found["error"])
        return found["result"]

    def _running(self) -> subprocess.Popen[str]:
        if self._agent is not None and self._agent_of == os.getpid() and self._agent.poll() is not None:
            self._drop()
        if self._agent is None or self._agent_of != os.getpid():
            launch.find_session(self._address)  # the error of a cluster that has ended is better here
            paths = [os.path.abspath(path or os.getcwd()) for path in sys.path]
            program = f"import sys; sys.path[:] = {paths!r}; from zray.job_submission.agent import main; main()"
            env = {name: value for name, value in os.environ.items() if name not in _OF_A_JOB}
            env["ZRAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # of supervisors: they are in the message of the job
            self._agent = subprocess.Popen([sys.executable, "-P", "-c", program, self._address], text=True,
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
                                           start_new_session=True)
            self._agent_of = os.getpid()
            self._end = weakref.finalize(self, _end_agent, self._agent, self._agent_of)
        return self._agent

    def _drop(self) -> None:
        self._agent = None
        if self._end is not None:
            self._end()

    def close(self) -> None:
        """Disconnect.  Jobs go on; a later call connects again."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _with_whole_paths(runtime_env: Any) -> Any:
    """Local directories are those of this process, now; the agent may have been started in another one."""
    if not isinstance(runtime_env, dict):
        return runtime_env

    def whole(path: Any) -> Any:
        return os.path.abspath(os.path.expanduser(path)) if isinstance(path, str) and "://" not in path else path

    found = dict(runtime_env)
    if found.get("working_dir"):
        found["working_dir"] = whole(found["working_dir"])
    if isinstance(found.get("py_modules"), list):
        found["py_modules"] = [whole(path) for path in found["py_modules"]]
    return found


def _resolved(address: str | None) -> str:
    """An address of ``find_session``."""
    if address and "://" in address and not address.startswith("zray://"):
        host = urlsplit(address).hostname
        if not address.startswith(("http://", "https://")) or host not in _LOOPBACK:
            raise ConnectionError(
                f"{address!r} cannot be reached: zray has no HTTP port for jobs. Give 'auto', a session directory, the "
                "host:port of a node on this machine, or '@FILE' with a join string; from another machine, use ssh")
        address = None
    return (address or os.environ.get("ZRAY_ADDRESS") or os.environ.get("RAY_ADDRESS") or session_dir_here() or "auto")


def _end_agent(agent: subprocess.Popen[str], owner: int) -> None:
    if owner != os.getpid():
        return
    for pipe in (agent.stdin, agent.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        agent.wait(END_S)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
