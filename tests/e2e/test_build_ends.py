"""A runtime environment that is being built ends with its node, its guard or its tasks, with all that the build
started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys

import pytest

import zray as ray
from tests.e2e.nodes import ended
from tests.e2e.target import until
from zray.node.processes.linux import name_of, parent

pytestmark = pytest.mark.zray_only  # zray's own processes

# A build that starts a process, and one in a session of its own that starts another; then it waits.
BACKEND = """
import os, subprocess, sys

def build_wheel(*args):
    note = "echo $$ >> {pids}; "
    subprocess.Popen(["sh", "-c", note + "sleep 1000; true"])
    subprocess.Popen(["sh", "-c", note + "sh -c '" + note + "sleep 1000; true'; true"], start_new_session=True)
    subprocess.run(["sh", "-c", note + "sleep 1000; true"])
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "endless"\nversion = "1"\n')
    (tmp_path / "project" / "backend.py").write_text(BACKEND.format(pids=tmp_path / "pids"))
    return tmp_path / "project"


def has(name):
    return shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])) \
        if name == "uv" else importlib.util.find_spec("pip")


@pytest.fixture(params=["pip", "uv"])
def env(request, project):
    if not has(request.param):
        pytest.skip(f"{request.param} is not installed for {sys.executable}")
    return {request.param: [str(project)]}


@pytest.fixture
def processes(fresh, project):
    """``processes()``: those of the build, when it has started all; the last two are the one that installs, and its
    guard."""
    def find():
        pids = project.parent / "pids"
        until(lambda: pids.exists() and len(pids.read_text().split()) == 4, "the build has started its processes", 60)
        found = [int(pid) for pid in pids.read_text().split()]
        up = min(found)
        while name_of(parent(up)) != "zray-node":
            up = parent(up)
            found.append(up)
        assert len(found) >= 8 and not any(map(ended, found))
        fresh.watch()
        return found
    return find


@pytest.fixture
def building(env, processes):
    """A task that waits for its environment, and the processes of the build."""
    ray.init(num_cpus=1)
    task = ray.remote(max_retries=0, runtime_env=env)(os.getpid).remote()
    return task, processes()


def all_end(pids):
    until(lambda: all(map(ended, pids)), lambda: f"of {pids} these run: {[pid for pid in pids if not ended(pid)]}")


def test_a_build_ends_with_its_node(building):
    _, pids = building
    os.kill(parent(pids[-1]), signal.SIGKILL)
    all_end(pids)


def test_a_build_ends_when_its_node_is_shut_down(building):
    _, pids = building
    ray.shutdown()
    all_end(pids)


def test_a_build_ends_with_the_last_actor_that_waits_for_it(env, processes):
    ray.init(num_cpus=1)
    actor = ray.remote(type("Waiting", (), {})).options(runtime_env=env).remote()
    pids = processes()
    ray.kill(actor)
    all_end(pids)
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


@pytest.mark.parametrize("how", ["task", "map"])
def test_a_build_ends_with_the_last_task_that_waits_for_it(env, processes, how):
    ray.init(num_cpus=2)
    task = ray.remote(max_retries=0, runtime_env=env)(lambda _: 1)
    refs = [task.remote(1), task.remote(2), task.remote(3)] if how == "task" else list(task.map(range(3)))
    pids = processes()
    for ref in refs:
        ray.cancel(ref)
        with pytest.raises(ray.exceptions.TaskCancelledError):
            ray.get(ref)
    all_end(pids)
    assert ray.get(ray.remote(num_cpus=2)(lambda: 1).remote()) == 1, "the CPUs are free"


def test_a_build_ends_with_its_guard_and_is_an_error_of_its_tasks(building):
    task, pids = building
    os.kill(pids[-1], signal.SIGKILL)
    all_end(pids)
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="the process that installs it ended"):
        ray.get(task)


def test_a_build_whose_process_is_killed_leaves_nothing_and_says_so(building):
    task, pids = building
    os.kill(pids[-2], signal.SIGKILL)
    all_end(pids)
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="signal SIGKILL ended it"):
        ray.get(task)
