"""Submitted jobs in sessions and clusters of their own, which mostly end, or some of their nodes do."""

from __future__ import annotations

import os
import signal
import textwrap

import pytest

import zray as ray
from tests.e2e.jobs import STATUS_S, pids, started, wait
from tests.e2e.nodes import ended
from tests.e2e.scripts import environment
from tests.e2e.target import until
from zray.job_submission import JobStatus, JobSubmissionClient
from zray.node.processes.linux import parent

pytestmark = pytest.mark.zray_only  # Ray's counterpart needs its dashboard


@pytest.fixture(autouse=True)
def importable(monkeypatch, session_root):
    """Entrypoints find this checkout, as they find an installed package."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_time(fresh):
    ray.init(num_cpus=1, _system_config={"job_stop_grace_s": 0.3})
    with JobSubmissionClient() as client:
        job = client.submit_job(entrypoint="trap '' TERM; echo $$; sh -c 'echo $$; sleep 1000' & echo ready; "
                                           "sleep 1000")
        started(client, job)
        fresh.watch()
        client.stop_job(job)
        details = wait(client, job)
        assert (details.status, details.driver_exit_code) == (JobStatus.STOPPED, -signal.SIGKILL)
        assert all(ended(pid) for pid in pids(client, job))


@pytest.mark.parametrize("stops", [False, True], ids=["running", "stopping"])
def test_nothing_of_a_job_outlives_its_keeper_wherever_it_went(fresh, stops):
    ray.init(num_cpus=1)
    with JobSubmissionClient() as client:
        job = client.submit_job(entrypoint="""
            trap '' TERM
            echo $$
            (setsid sh -c 'echo $$; sh -c "echo \\$\\$; sleep 1000"; true' &)
            (sh -c 'echo $$; exec sleep 1000' &)
            sh -c 'echo $PPID; echo $$; setsid sh -c "echo \\$\\$; sleep 0.1; echo ready; sleep 1000"; true'
            """)
        started(client, job)
        running = pids(client, job)
        assert len(running) == 7 and not any(map(ended, running))
        fresh.watch()
        keeper = parent(running[0])
        if stops:
            client.stop_job(job)
        os.kill(keeper, signal.SIGKILL)
        details = wait(client, job, within_s=STATUS_S)
        assert all(map(ended, running))
        if stops:
            assert details.status is JobStatus.STOPPED
        else:
            assert details.status is JobStatus.FAILED
            assert "The process that watched the entrypoint ended with signal SIGKILL" in details.message
            assert "could not be started" not in details.message


def test_a_client_of_a_cluster_that_has_ended_says_so(fresh):
    ray.init(num_cpus=1)
    with JobSubmissionClient() as client:
        client.list_jobs()
        fresh.watch()
        ray.shutdown()
        with pytest.raises((RuntimeError, ConnectionError), match="cluster|died|no zray node"):
            client.list_jobs()
        with pytest.raises(ConnectionError, match="no zray node"):
            client.list_jobs()


def test_a_job_ends_with_its_cluster(fresh):
    ray.init(num_cpus=1)
    with JobSubmissionClient() as client:
        job = client.submit_job(entrypoint="echo $$; sh -c 'echo $$; echo ready; sleep 1000'")
        started(client, job)
        running = pids(client, job)
        fresh.watch()
    assert len(running) == 2
    ray.shutdown()
    until(lambda: all(ended(pid) for pid in running), "its processes end")


def test_a_job_that_waits_for_resources_outlives_its_client_and_starts_with_a_new_node(grow):
    cluster = grow({"num_cpus": 1})
    with JobSubmissionClient() as client:
        job = client.submit_job(entrypoint="echo at last, GPU $CUDA_VISIBLE_DEVICES", entrypoint_num_gpus=1,
                                entrypoint_resources={"later": 1})
    cluster.add_node(num_cpus=1, num_gpus=2, resources={"later": 1})
    with JobSubmissionClient() as client:
        assert wait(client, job).status is JobStatus.SUCCEEDED
        assert client.get_job_logs(job) in ("at last, GPU 0\n", "at last, GPU 1\n")


def test_the_tasks_of_a_job_have_what_its_relative_paths_meant_where_it_was_submitted(grow, monkeypatch, tmp_path):
    """Also on another node, which fetches the packages by the job of the driver."""
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}})
    for path, text in {"mods/shape/__init__.py": "import one; area = one.size * 7", "one.py": "size = 6",
                       "work/data.txt": "data", "reqs.txt": "# nothing to install\n"}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "work" / "train.py").write_text(textwrap.dedent("""
        import zray as ray
        ray.init()

        @ray.remote(num_cpus=0, resources={"there": 0.1})
        def there():
            import shape
            return shape.area, open("data.txt").read()

        print("answer", ray.get(there.remote()), ray.get_runtime_context().runtime_env["pip"])
        """))
    monkeypatch.chdir(tmp_path)
    with JobSubmissionClient(cluster.address) as client:
        job = client.submit_job(entrypoint="python train.py", runtime_env={
            "working_dir": "work", "py_modules": ["mods/shape", "one.py"], "pip": "reqs.txt"})
        details = wait(client, job)
        assert details.status is JobStatus.SUCCEEDED, details.message
        assert "answer (42, 'data') {'packages': []" in client.get_job_logs(job)
        assert details.runtime_env["pip"] == "reqs.txt", "shown as it was submitted"


def test_a_node_that_is_killed_fails_its_jobs_by_name_and_others_go_on(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})
    other = cluster.list_all_nodes()[1]
    with JobSubmissionClient() as client:
        far = client.submit_job(entrypoint="echo $$; echo ready; sleep 1000", entrypoint_resources={"far": 1})
        here = client.submit_job(entrypoint="echo ready; sleep 1000")
        for job in (far, here):
            started(client, job)
        assert client.get_job_info(far).driver_node_id == other.node_id
        (running,) = pids(client, far)
        other.kill()
        details = wait(client, far, within_s=2 * STATUS_S)
        assert details.status is JobStatus.FAILED and other.node_id in details.message, details
        until(lambda: ended(running), "its process ends")
        assert "ready" in client.get_job_logs(far), "its log is on this machine, and stays"
        assert client.get_job_status(here) is JobStatus.RUNNING
        client.stop_job(here)
        assert wait(client, here).status is JobStatus.STOPPED


def test_a_log_of_another_machine_is_read_there(grow, monkeypatch):
    from zray.job_submission import logs
    from zray.job_submission.manager import JobManager

    grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})
    monkeypatch.setattr(logs, "machine_id", lambda: "another machine")
    manager = JobManager()
    job = manager.submit(entrypoint="echo far away", entrypoint_resources={"far": 1})
    until(lambda: manager.row(job)["status"] == "SUCCEEDED", "it ends")
    assert manager.log_piece(job, 4) == (b"away\n", "SUCCEEDED") and manager.log_piece(job, 9) == (b"", "SUCCEEDED")
    path = manager.row(job)["log"]
    assert manager.delete(job) and not os.path.exists(path)
