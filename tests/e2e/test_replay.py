"""A recorded run is replayed: all of it, one task in the debugger, one actor; what differs is found."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

from tests.e2e.scripts import environment, zray
from tests.e2e.target import ray

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only

SAME_SETS = {"PYTHONHASHSEED": "0"}  # as recorded: `zray replay` need not start itself again
PROGRAM = """
import asyncio, os, random, sys, threading
import numpy as np
import ray

OUTSIDE = "outside"  # a task that differs in a replay reads it from the variable of that name

@ray.remote
def double(x):
    return 2 * x

@ray.remote
def draws(n):
    return [random.random() for _ in range(n)], np.random.rand(n), {str(i) for i in range(20)}

@ray.remote
def nests(n):
    refs = [double.remote(i) for i in range(n)]
    kept = ray.put(list(range(n)))
    ready, rest = ray.wait(refs, num_returns=n)
    named = Counter.options(name="named").remote(100)
    found = ray.get_actor("named")
    items = [ray.get(item) for item in yields.remote(2)]
    try:
        ray.get(fails.remote({"a": n}))
    except KeyError as error:
        items.append(error.args)
    return sum(ray.get(ready)) + sum(ray.get(kept)), ray.get(found.add.remote(1)), items, ray.get(double.map(range(3)))

@ray.remote(num_returns="streaming")
def yields(n):
    for i in range(n):
        yield i * i

@ray.remote
def fails(settings):
    number = settings["a"]
    raise KeyError(f"no {number}")

@ray.remote
def large(n):
    return np.arange(n)

@ray.remote
def adds(array, inside):
    return int(array.sum() + ray.get(inside["array"]).sum())

@ray.remote(num_returns=2)
def two():
    return 1, ray.put("inside")

@ray.remote
def differs():
    return os.environ.get("OUTSIDE", "recorded")

@ray.remote
def asks_differently():
    return ray.get(double.remote(os.environ.get("OUTSIDE", "recorded"))) and None

@ray.remote(max_retries=0)
def dies(x):
    os.kill(os.getpid(), 9)

@ray.remote
def starts_threads():
    found = []
    threads = [threading.Thread(target=lambda i=i: found.append(ray.get(double.remote(i)))) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)

@ray.remote
class Counter:
    def __init__(self, start):
        self.count = start
        random.seed(start)
    def add(self, k):
        self.count += k + ray.get(double.remote(0))
        return self.count
    def draw(self):
        return random.randrange(10**9)
    def leaves(self):
        ray.actor.exit_actor()

@ray.remote
class Awaits:
    def __init__(self):
        self.log, self.set = [], asyncio.Event()
    async def waits(self, k):
        await self.set.wait()
        self.log.append(k)
        return self.log
    async def sets(self):
        self.log += await asyncio.gather(*[double.remote(i) for i in range(3)])
        self.set.set()
        return len(self.log)

@ray.remote(max_concurrency=2)
class Threads:
    def __init__(self):
        self.set = threading.Event()
    def waits(self):
        return self.set.wait()
    def sets(self):
        self.set.set()
        return ray.get(double.remote(5))

ray.init(num_cpus=2)
print(ray.get([double.remote(21), draws.remote(3), nests.remote(3)]))
array = large.remote(200_000)
print(ray.get(adds.remote(array, {"array": array})), ray.get(two.remote()[0]))
counter = Counter.options(name="counter").remote(5)
print(ray.get([counter.add.remote(1), counter.add.remote(double.remote(1)), counter.draw.remote()]))
awaits, threads = Awaits.remote(), Threads.remote()
for one in (awaits, threads):
    waiting = one.waits.remote(*([1] if one is awaits else []))
    print(ray.get([one.sets.remote(), waiting]))
print(ray.get([differs.remote(), asks_differently.remote(), starts_threads.remote()]))
for ref in (dies.remote("the argument"), counter.leaves.remote()):
    try:
        ray.get(ref)
    except ray.exceptions.RayError as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory, session_root):
    """The folder of a recorded run, and what the run printed."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-m", "zray.cli", "run", "--record", "record", "program.py"], cwd=folder,
                          env=environment(ZRAY_RECORD_VALUE_BYTES_MAX="100000"), text=True, capture_output=True,
                          timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "record", done.stdout


def test_the_recording_is_for_its_owner_alone(recording):
    folder, _ = recording
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert len(list(folder.glob("driver-*.zrec"))) == 1 and len(list(folder.glob("worker-*.zrec"))) > 1


def test_everything_is_replayed_as_it_was(recording):
    folder, _ = recording
    said = zray("replay", str(folder))  # this command starts anew with the PYTHONHASHSEED of the record
    ran = len(zray("replay", str(folder), "--list", **SAME_SETS).splitlines())
    assert f"\n{ran - 1} runs replayed: no divergence\n" in f"\n{said}"
    assert re.search(r"left out: dies \([0-9a-f]{8}:\d+\): its process ended during it; --task runs it here", said)


def test_what_differs_is_reported_with_both_values(recording):
    folder, _ = recording
    said = zray("replay", str(folder), "--keep-going", code=1, OUTSIDE="now", **SAME_SETS)
    assert "diverges in its result:\n  recorded: 'recorded'\n  now:      'now'\n" in said
    assert ("diverges in what it asks of zray:\n  recorded: double.remote('recorded')\n"
            "  now:      double.remote('now')\n") in said
    assert said.count("diverges") == 2


def test_the_driver_gets_its_recorded_answers(recording):
    folder, printed = recording
    assert zray("replay", str(folder), "--driver", **SAME_SETS) == f"{printed}the driver: no divergence\n"


def debug(folder, *arguments, commands):
    done = subprocess.run([sys.executable, "-m", "zray.cli", "replay", str(folder), *arguments], input=commands,
                          env=environment(**SAME_SETS), text=True, capture_output=True, timeout=60)
    return done.stdout + done.stderr


def test_one_task_runs_in_the_debugger_with_its_arguments(recording):
    folder, _ = recording
    said = debug(folder, "--task", "fails", "--pdb", commands="p settings\nc\np number + 1\nq\n")
    assert "{'a': 3}" in said and "KeyError: 'no 3'" in said and "(Pdb) 4\n" in said and "no divergence" in said
    said = debug(folder, "--task", "dies", "--pdb", commands="p x\nq\n")
    assert "'the argument'" in said and "Aborted!" in said


def test_an_actor_lives_again_up_to_a_call(recording):
    folder, _ = recording
    said = zray("replay", str(folder), "--actor", "counter", **SAME_SETS)
    assert "Counter.__init__ (actor " in said and said.endswith("5 runs: no divergence\n")
    # The first call of that name is of the other actor.
    said = debug(folder, "--actor", "counter", "--until", "Counter.add#3", "--pdb", commands="p self.count, k\nc\n")
    assert "(Pdb) (6, 2)\n" in said and "3 runs: no divergence" in said


def test_a_record_that_was_cut_off_is_replayed_as_far_as_it_goes(recording, tmp_path):
    folder, _ = recording
    shutil.copytree(folder, copy := tmp_path / "copy")
    for file in copy.glob("worker-*.zrec"):
        if b"Threads.__init__" not in file.read_bytes() and b"Awaits.__init__" not in file.read_bytes():
            os.truncate(file, file.stat().st_size - 3)
    said = zray("replay", str(copy), **SAME_SETS)
    assert "is cut off" in said and "no divergence" in said


@pytest.mark.parametrize(("arguments", "why"), [
    (("--task", "nobody"), "no run is called 'nobody'. Recorded are "),
    (("--task", "double"), "runs are meant by 'double'"),
    (("--actor", "counter", "--until", "differs"), "is no call of Counter.__init__"),
    (("--pdb",), "--pdb needs to know what to debug"),
    (("--task", "differs", "--driver"), "give one of --task, --actor and --driver")])
def test_what_is_not_recorded_is_said(recording, arguments, why):
    from click.testing import CliRunner

    from zray.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "0")  # as recorded: the command stays in this process
        patch.chdir(recording[0].parent)
        patch.setattr(sys, "path", [*sys.path])
        result = CliRunner().invoke(main, ["replay", str(recording[0]), *arguments])
    assert result.exit_code in (1, 2) and why in result.output


def test_a_folder_that_is_not_empty_is_no_place_for_a_recording(tmp_path):
    (tmp_path / "notes").write_text("")
    said = zray("run", "--record", str(tmp_path), "-c", "pass", code=1)
    assert f"Error: the folder {tmp_path} is not empty: a recording needs a new folder, or an empty one" in said


def test_without_a_recording_nothing_of_it_is_there(cluster):
    from zray.handles.connection import current

    @ray.remote
    def loaded():
        import sys

        return [name for name in sys.modules if name.startswith("zray.") and "recording" in name]

    assert ray.get(loaded.remote()) == []
    assert not {"submit", "call", "get", "get_one", "put", "wait"} & set(vars(current()))
