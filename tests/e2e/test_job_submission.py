"""Jobs that are submitted: their processes, ends, logs and rows.  All processes are real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time

import psutil
import pytest

import zray as ray
from tests.e2e.jobs import STATUS_S, pids, started, wait
from tests.e2e.nodes import ended
from tests.e2e.scripts import environment, zray
from tests.e2e.target import until
from zray.job_submission import JobDetails, JobInfo, JobStatus, JobSubmissionClient, JobType
from zray.util import state
from zray.util.state.exception import RayStateApiException

pytestmark = pytest.mark.zray_only  # Ray's counterpart needs its dashboard


PROGRAM = """
import os, sys, time
import zray as ray
ray.init("auto")  # the cluster of the job, and not one of `zray start`

@ray.remote
def where(x):
    return os.environ.get("COLOUR", "none"), x

print("answer", ray.get(where.remote(6 * 7)), flush=True)
print("id", ray.get_runtime_context().get_job_id(), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def connected(module_footprint):
    """The clients that were made; a start of their processes takes longer than most tests."""
    clients: list[JobSubmissionClient] = []
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def client(cluster, connected):
    if not connected or connected[-1].get_address() != ray.get_runtime_context().gcs_address:
        connected.append(JobSubmissionClient())
    return connected[-1]


@pytest.fixture(autouse=True)
def importable(monkeypatch, session_root):
    """Entrypoints find this checkout, as they find an installed package."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def supervisor(job):
    """The process of the job's supervisor and that of its keeper."""
    name = f"job_supervisor_{job}"
    (row,) = [row for row in ray.handles.connection.current().query("actors")["actors"]
              if row["name"] == name and row["state"] == "ALIVE"]
    process = psutil.Process(row["pid"])
    (keeper,) = process.children()
    return process, keeper


def test_a_program_runs_on_the_cluster_and_its_log_stays(client, tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    job = client.submit_job(entrypoint=f"python {tmp_path}/train.py", metadata={"team": "blue"},
                            runtime_env={"env_vars": {"COLOUR": "green"}}, submission_id="first-job")
    assert job == "first-job"
    details = wait(client, job)
    log = client.get_job_logs(job)
    assert details.status is JobStatus.SUCCEEDED and "answer ('green', 42)" in log, log
    assert isinstance(details, JobDetails) and details.type is JobType.SUBMISSION
    assert (details.driver_exit_code, details.metadata, details.message) == (
        0, {"team": "blue"}, "Job finished successfully.")
    assert details.runtime_env == {"env_vars": {"COLOUR": "green"}}
    assert details.start_time <= details.end_time <= time.time() * 1000
    assert details.driver_node_id == ray.get_runtime_context().get_node_id()
    assert f"id {details.job_id}" in log and details.driver_info.id == details.job_id
    assert client.get_job_info(details.job_id).submission_id == job, "the driver's job id names it too"
    assert job in {one.submission_id for one in client.list_jobs()}
    drivers = [one.driver_info.pid for one in client.list_jobs() if one.type is JobType.DRIVER]
    assert drivers == [str(os.getpid())], "neither the job's own driver nor those of clients"
    assert f"job-driver-{job}.log" in zray("logs", "--address", client.get_address())
    assert "".join(state.get_log(submission_id=job)) == log
    assert "".join(state.get_log(submission_id=job, tail=1)) == log.splitlines(keepends=True)[-1]
    assert "".join(state.get_log(submission_id=job, node_id=details.driver_node_id)) == log
    with pytest.raises(RayStateApiException, match="log of the job first-jo: the submission id is wrong"):
        list(state.get_log(submission_id="first-jo"))


def test_the_log_can_be_followed_until_the_end(client, gate):
    job = client.submit_job(entrypoint=f"echo gr\u00fcn; while [ ! -e {gate.path} ]; do sleep 0.02; done; "
                                       "echo last >&2")

    async def follow():
        pieces = []
        async for text in client.tail_job_logs(job):
            pieces.append(text)
            if "gr\u00fcn" in text:
                gate.open()
        return pieces

    pieces = asyncio.run(follow())
    assert "".join(pieces) == "gr\u00fcn\nlast\n" and len(pieces) > 1
    assert client.get_job_status(job) is JobStatus.SUCCEEDED


@pytest.mark.parametrize("end, code, words", [
    ("exit 7", 7, "exit code 7"), ("kill -9 $$", -9, "SIGKILL"), ("kill -TERM $$", -15, "SIGTERM"),
    ("/no/such/program", 127, "exit code 127")])
def test_any_end_of_the_entrypoint_is_a_failure_that_says_how(client, end, code, words):
    job = client.submit_job(entrypoint=f"echo the last words; {end}")
    details = wait(client, job)
    assert (details.status, details.driver_exit_code) == (JobStatus.FAILED, code)
    assert f"Job entrypoint command failed with {'signal ' if code < 0 else ''}{words}" in details.message
    assert "the last words" in details.message and details.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR"


def test_what_the_entrypoint_leaves_behind_ends_with_it(client):
    job = client.submit_job(entrypoint="sleep 1000 & echo $!; setsid sleep 1000 & sleep 0.1; pgrep -n -f 'sleep 1000';"
                                       " (setsid sh -c 'echo $$; exec sleep 1000' &); sleep 0.2")
    assert wait(client, job).status is JobStatus.SUCCEEDED
    left = pids(client, job)
    assert len(left) >= 3 and all(ended(pid) for pid in left)


def test_stop_lets_the_program_end_itself(client):
    program = ("import signal, sys, time\n"
               "def end(*_): print('saved', flush=True); sys.exit(0)\n"
               "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(1000)")
    job = client.submit_job(entrypoint=f'{sys.executable} -c "{program}"; echo unreachable')
    started(client, job)
    assert client.stop_job(job) is True
    details = wait(client, job)
    assert details.status is JobStatus.STOPPED and details.message == "Job was intentionally stopped."
    assert "saved" in client.get_job_logs(job) and "unreachable" not in client.get_job_logs(job)
    assert client.stop_job(job) is False, "it had ended"


def test_a_supervisor_that_is_killed_takes_its_job_along(client):
    job = client.submit_job(entrypoint="echo $$; sh -c 'echo $$; echo ready; sleep 1000'")
    started(client, job)
    process, keeper = supervisor(job)
    process.kill()
    details = wait(client, job, within_s=STATUS_S)
    assert details.status is JobStatus.FAILED and details.error_type == "JOB_SUPERVISOR_ACTOR_DIED"
    assert "SIGKILL" in details.message and str(process.pid) in details.message
    until(lambda: all(ended(pid) for pid in [keeper.pid, *pids(client, job)]), "its processes end")


def test_a_keeper_that_is_killed_takes_its_job_along(client):
    job = client.submit_job(entrypoint="echo $$; sh -c 'echo $$; echo ready; sleep 1000'")
    started(client, job)
    _, keeper = supervisor(job)
    keeper.kill()
    details = wait(client, job, within_s=STATUS_S)
    assert details.status is JobStatus.FAILED and "SIGKILL" in details.message
    until(lambda: all(ended(pid) for pid in pids(client, job)), "its processes end")


def test_the_entrypoint_has_resources_of_its_own_and_waits_for_them(client):
    job = client.submit_job(entrypoint="sleep 1000", entrypoint_num_cpus=64)
    until(lambda: "no node has the resources" in client.get_job_info(job).message, "the reason is known")
    details = client.get_job_info(job)
    assert details.status is JobStatus.PENDING and details.message.startswith("Job has not started yet.")
    with pytest.raises(RuntimeError, match="non-terminal state PENDING"):
        client.delete_job(job)
    assert client.stop_job(job)
    assert client.get_job_status(job) is JobStatus.STOPPED
    free = client.submit_job(entrypoint="echo ready; sleep 1000", entrypoint_num_cpus=1.5, entrypoint_memory=2**20)
    started(client, free)
    until(lambda: ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"] - 1.5, "they are taken")
    client.stop_job(free)
    wait(client, free)
    until(lambda: ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], "they come back")


def test_an_environment_that_cannot_be_set_up_is_the_reason(client):
    job = client.submit_job(entrypoint="true", runtime_env={"env_vars": {"PYTHONHOME": "/nowhere"}})
    details = wait(client, job)
    assert details.status is JobStatus.FAILED and details.error_type == "RUNTIME_ENV_SETUP_FAILURE"
    assert "could not start" in details.message and "PYTHONHOME" in details.message


def test_deleted_jobs_are_forgotten_and_ids_are_unique(client):
    job = client.submit_job(entrypoint="echo x", submission_id="once")
    wait(client, job)
    with pytest.raises(RuntimeError, match="Job with submission_id once already exists"):
        client.submit_job(entrypoint="echo y", submission_id="once")
    assert client.get_job_logs(job) == "x\n"
    log = os.path.join(client.get_address(), "logs", "job-driver-once.log")
    assert os.path.exists(log) and client.delete_job(job) is True and not os.path.exists(log)
    for ask in (client.get_job_info, client.get_job_status, client.get_job_logs, client.stop_job, client.delete_job):
        with pytest.raises(RuntimeError, match="Job once does not exist"):
            ask(job)


def test_wrong_arguments_are_refused_with_a_reason(client):
    known = len(client.list_jobs())
    for wrong, error, words in [
            ({"entrypoint": ""}, ValueError, "is empty"), ({"entrypoint": ["ls"]}, TypeError, "must be a string"),
            ({"submission_id": "../x"}, ValueError, "letters, digits"), ({"metadata": {"a": 1}}, TypeError, "'a': 1"),
            ({"metadata": "a"}, TypeError, "must be a dict"), ({"runtime_env": "x"}, TypeError, "must be a dict"),
            ({"entrypoint_num_cpus": -1}, ValueError, "not be negative"),
            ({"entrypoint_num_cpus": "2"}, TypeError, "must be a number"),
            ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError, "env_vars"),
            ({"metadata": {"a": "x" * 300_000}}, ValueError, "at most 262144"),
            ({"runtime_env": {"env_vars": {"A": object()}}}, TypeError, "JSON")]:
        with pytest.raises(error, match=words):
            client.submit_job(**{"entrypoint": "true", **wrong})
    assert len(client.list_jobs()) == known, "nothing of them stays"


def test_addresses(cluster, monkeypatch):
    here = ray.get_runtime_context().gcs_address
    for address in (None, "", here, "http://127.0.0.1:8265", "http://localhost:8265"):
        with JobSubmissionClient(address) as client:
            assert client.get_address() == here
    monkeypatch.setenv("ZRAY_ADDRESS", here)
    assert JobSubmissionClient().get_address() == here
    with pytest.raises(ConnectionError, match="no HTTP port"):
        JobSubmissionClient("http://10.1.2.3:8265")
    with pytest.raises(ConnectionError):
        JobSubmissionClient("/nowhere")
    with pytest.raises(TypeError):
        JobSubmissionClient(8265)


def test_a_client_connects_again_after_its_process_was_killed(client):
    client.list_jobs()
    client._agent.kill()
    with contextlib.suppress(RuntimeError):  # the end may be noticed before or after the question
        client.list_jobs()
    assert isinstance(client.list_jobs(), list)


def test_the_end_of_its_process_during_a_question_is_an_error_that_says_so(client, monkeypatch):
    client.list_jobs()
    agent = client._agent
    agent.kill()
    agent.wait()
    monkeypatch.setattr(agent, "poll", lambda: None)  # it lived a moment ago
    with pytest.raises(RuntimeError, match=r"the connection to the cluster in .* broke \(its process ended with -9\)"):
        client.list_jobs()
    assert isinstance(client.list_jobs(), list)


def test_rows_are_bounded_and_the_oldest_ended_leave_first(cluster, monkeypatch):
    from zray.job_submission import table

    def row(number, status="SUCCEEDED"):
        return {"submission_id": f"job-{number}", "status": status, "start_time": number, "entrypoint": "true"}

    for known in table.read_all():
        table.delete(known["submission_id"])
    monkeypatch.setattr(table, "JOBS_MAX", 3)
    table.add(row(0, "RUNNING"))
    for number in range(1, 6):
        table.add(row(number))
    assert [one["start_time"] for one in table.read_all()] == [0, 4, 5]
    for number in (4, 5):
        table.delete(f"job-{number}")
        table.add(row(number, "RUNNING"))
    with pytest.raises(RuntimeError, match="3 submitted jobs have not ended"):
        table.add(row(9))
    table.update("job-4", status="FAILED")
    table.update("job-4", status="RUNNING", message="late")
    assert table.read("job-4")["status"] == "FAILED", "an end is final"
    assert table.update("job-77", status="FAILED") is None
    assert JobInfo(status="FAILED", entrypoint="x").message == "Job failed."
    for known in table.read_all():
        table.delete(known["submission_id"])


@pytest.mark.parametrize("status, code, exits_with", [
    ("SUCCEEDED", 0, 0), ("FAILED", 5, 5), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", -15, 143)])
def test_submit_exits_as_its_entrypoint(status, code, exits_with):
    pytest.importorskip("click")
    from zray.cli.jobs import _exit_code

    details = JobDetails(type="SUBMISSION", status=status, entrypoint="x", driver_exit_code=code)
    assert _exit_code(details) == exits_with


def test_the_commands(cluster, tmp_path, monkeypatch):
    pytest.importorskip("click")
    from click.testing import CliRunner

    from zray.cli import main

    monkeypatch.setenv("ZRAY_ADDRESS", ray.get_runtime_context().gcs_address)

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, ["job", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    (tmp_path / "env.yaml").write_text("env_vars:\n  COLOUR: red\n")
    said = zray("job", "submit", "--submission-id", "cli-1", "--runtime-env", str(tmp_path / "env.yaml"), "--",
                "sh", "-c", "echo 'two  spaces'; printenv COLOUR; exit 5", code=5)
    assert "Job 'cli-1' submitted successfully" in said and "two  spaces\nred\n" in said and "exit code 5" in said
    said = run("submit", "--no-wait", "--submission-id", "cli-2", "--metadata-json", '{"a": "b"}',
               "--entrypoint-num-cpus", "1", "--entrypoint-resources", "{}", "--", "sh", "-c", "echo ready; sleep 1000")
    assert "\ncli-2\n" in said
    until(lambda: "ready" in run("logs", "cli-2"), "it runs")
    listed = run("list", "--format", "json")
    assert '"a": "b"' in listed and '"FAILED"' in listed and '"RUNNING"' in listed
    assert "was stopped" in run("stop", "cli-2") and "deleted" in run("delete", "cli-2")
    assert "Job cli-2 does not exist" in run("status", "cli-2", code=1)
    assert "two  spaces" in run("logs", "--follow", "cli-1")
    secret = run("submit", "--runtime-env-json", '{"env_vars": {"KEY": "hunter2"', "--", "true", code=2)
    assert "hunter2" not in secret and "is not JSON" in secret
