"""Nodes that outlive their drivers: `zray start`, init("auto"), two jobs at once, detached actors, `zray stop`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.scripts import environment, run_script, zray

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only

ENTER = 'import zray as ray\nray.init("auto", namespace="shop")\n'


@pytest.fixture
def started(fresh):
    """A node started by the command line."""
    zray("start", "--head", "--num-cpus", "2")
    yield
    zray("stop")


def test_a_detached_actor_and_its_state_outlive_the_driver_that_made_it(started, tmp_path):
    run_script(tmp_path, ENTER + """
@ray.remote
class Till:
    def __init__(self):
        self.sum = 0
    def add(self, x):
        self.sum += x
        return self.sum
    def open_another(self, name):
        return ray.get(Helper.options(name=name, lifetime="detached").remote().f.remote())

@ray.remote
class Helper:
    def f(self):
        return 1

till = Till.options(name="till", lifetime="detached").remote()
assert ray.get(till.add.remote(5)) == 5
helper = Helper.options(name="helper").remote()
assert ray.get(helper.f.remote()) == 1
""")
    later = run_script(tmp_path, ENTER + """
till = ray.get_actor("till")
print(ray.get(till.add.remote(2)))
try:
    ray.get_actor("helper")
except ValueError:
    print("the other one ended with its driver")
print(ray.get(till.open_another.remote("another")), sorted(ray.util.list_named_actors()))
ray.kill(till)
ray.kill(ray.get_actor("another"))
""")
    assert later.stdout.split("\n")[:3] == [
        "7", "the other one ended with its driver", "1 ['another', 'till']"]


def test_the_last_tasks_of_a_job_are_listed_after_it_has_ended(started, tmp_path):
    run_script(tmp_path, ENTER + """
@ray.remote
def last_words():
    return 1

@ray.remote
class Speaker:
    def speak(self):
        return ray.get(last_words.remote())

speaker = Speaker.remote()
ray.get([speaker.speak.remote(), last_words.remote()])
""")
    listed = [row["name"] for row in json.loads(zray("list", "tasks", "--format", "json"))]
    assert sorted(listed) == ["Speaker.__init__", "Speaker.speak", "last_words", "last_words"]


def test_two_drivers_at_once_have_jobs_and_workers_of_their_own(started, tmp_path):
    driver = ENTER + """
import os, sys
@ray.remote
def where():
    return os.getpid(), os.getcwd()
mine = {ray.get(where.remote()) for _ in range(20)}
print(ray.get_runtime_context().get_job_id(), sorted(mine), flush=True)
sys.stdin.readline()                   # both are connected now
mine = {ray.get(where.remote()) for _ in range(20)}
print(sorted(mine), flush=True)
"""
    drivers = []
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir()
        (home / "train.py").write_text(driver)
        drivers.append(subprocess.Popen([sys.executable, "train.py"], cwd=home, env=environment(), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    first = [process.stdout.readline() for process in drivers]
    rest = [process.communicate("go\n", timeout=60)[0] for process in drivers]
    assert all(process.returncode == 0 for process in drivers)
    jobs = {line.split()[0] for line in first}
    assert len(jobs) == 2, "each driver is a job"
    workers = [{pid for pid, _ in eval(line.split(maxsplit=1)[1])} | {pid for pid, _ in eval(after)}
               for line, after in zip(first, rest, strict=True)]
    assert not workers[0] & workers[1], "a worker served two jobs"
    for name, line in zip(("one", "two"), first, strict=True):
        assert {cwd for _, cwd in eval(line.split(maxsplit=1)[1])} == {str(tmp_path / name)}


def test_status_names_the_session_and_stop_leaves_nothing_to_find(fresh):
    zray("start", "--head", "--num-cpus", "1")
    try:
        assert "CPU" in zray("status")
    finally:
        zray("stop")
    assert zray("stop")  # nothing to stop is said, not an error
    failed = subprocess.run([sys.executable, "-c", 'import zray; zray.init("auto")'], env=environment(), text=True,
                            capture_output=True, timeout=60)
    assert failed.returncode != 0 and "ConnectionError" in failed.stderr
