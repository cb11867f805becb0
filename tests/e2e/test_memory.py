"""Workers that hold too much memory: one ends before the kernel chooses, and its work runs again with more room."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.scripts import environment
from tests.e2e.target import Counts, ray, until, waits_because

pytestmark = pytest.mark.zray_only

MIB = 1 << 20
LIMIT = 400 * MIB
LOOKS = {"memory_monitor_s": 0.02}


def grow(gate, log, mib):
    """Say that it begins, hold so much memory, wait for the gate."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    held = bytearray(mib * MIB)
    held[::4096] = b"x" * len(held[::4096])
    gate.wait()
    return len(held) // MIB


def runs(log):
    return log.read_text().split() if log.exists() else []


def test_a_task_that_fills_the_memory_ends_with_an_error_that_says_so_and_its_neighbour_stays(fresh, gate, tmp_path):
    ray.init(num_cpus=2, _system_config={**LOOKS, "memory_limit_bytes": LIMIT})
    counter = ray.remote(num_cpus=0)(Counts).remote()
    assert ray.get(counter.add.remote()) == 1
    fresh.watch()
    ref = ray.remote(max_retries=0)(grow).remote(gate, tmp_path / "log", 500)
    with pytest.raises(ray.exceptions.OutOfMemoryError) as raised:
        ray.get(ref, timeout=60)
    [pid] = runs(tmp_path / "log")
    text = str(raised.value)
    assert f"pid={pid}" in text and "memory_limit_bytes" in text and "of 400 MiB were in use" in text, text
    assert ray.get(counter.add.remote()) == 2, "an actor without restarts is spared"
    [row] = ray.util.state.list_workers(filters=[("exit_type", "=", "NODE_OUT_OF_MEMORY")])
    assert row["pid"] == int(pid)


def test_tasks_that_do_not_fit_together_run_one_after_another_when_they_run_again(fresh, gate, tmp_path):
    ray.init(num_cpus=4, _system_config={**LOOKS, "memory_limit_bytes": LIMIT})
    gate.open()
    fill = ray.remote(grow)
    refs = [fill.remote(gate, tmp_path / f"log{number}", 230) for number in range(4)]
    fresh.watch()
    assert ray.get(refs, timeout=100) == [230] * 4


def test_a_task_that_ended_so_waits_until_the_others_have_given_back_their_memory(fresh, gate, tmp_path):
    ray.init(num_cpus=2, _system_config={**LOOKS, "memory_limit_bytes": LIMIT})
    assert ray.cluster_resources()["memory"] == LIMIT
    first = ray.remote(grow).remote(gate, tmp_path / "first", 250)
    gate.wait_arrived()
    second = ray.remote(max_retries=1)(grow).remote(gate, tmp_path / "second", 200)
    until(lambda: ray.available_resources()["memory"] < LIMIT, "the first is charged for what it holds")
    waits_because(second, "resources its task asks for are in use")
    fresh.watch()
    gate.open()
    assert ray.get([first, second], timeout=60) == [250, 200]
    assert len(runs(tmp_path / "first")) == 1 and len(runs(tmp_path / "second")) == 2


def test_memory_of_a_task_is_a_limit_when_that_is_asked_for(fresh, gate, tmp_path):
    ray.init(num_cpus=1, _system_config={**LOOKS, "memory_enforced": True})
    gate.open()
    fill = ray.remote(grow)
    assert ray.get(fill.options(memory=300 * MIB).remote(gate, tmp_path / "fits", 100), timeout=60) == 100
    fresh.watch()
    closed = type(gate)(tmp_path, "closed")
    ref = fill.options(memory=100 * MIB, max_retries=1).remote(closed, tmp_path / "log", 200)
    with pytest.raises(ray.exceptions.OutOfMemoryError, match=r"memory= allows 100 MiB \(the setting memory_enforced"):
        ray.get(ref, timeout=60)
    assert len(runs(tmp_path / "log")) == 2, "it is tried again as often as after a crash"


def test_no_more_workers_start_than_the_memory_has_room_for(fresh, gate):
    ray.init(num_cpus=1, _system_config={"memory_monitor_s": 0, "memory_limit_bytes": 200 * MIB})

    @ray.remote(num_cpus=0, max_retries=0)
    def stay():
        gate.wait()
        return os.getpid()

    refs = [stay.remote() for _ in range(60)]
    waits_because(refs[-1], "as many worker processes as it may", "in use (memory_limit_bytes")
    assert len(ray.util.state.list_workers(limit=100)) < 50
    gate.open()
    assert len(set(ray.get(refs, timeout=60))) < 50, "the workers that became free served the rest"


IN_A_GROUP = """
import os, sys
import zray as ray
ray.init(num_cpus=1, object_store_memory=8 << 20, _system_config={"memory_monitor_s": 0.02,
                                                                  "memory_share_max": 0.8})
total = ray.cluster_resources()["memory"]
assert total < 600 << 20, f"the limit of the group is read: {total}"

@ray.remote(max_retries=0)
def fill():
    held = []
    while True:
        held.append(bytearray(b"x") * (1 << 20))
        for _ in range(4):  # answers of the node, which looks at the memory between them: not faster than it can look
            ray.available_resources()

try:
    ray.get(fill.remote())
except ray.exceptions.OutOfMemoryError as error:
    print(error)
print(ray.get(ray.remote(lambda: 7).remote()))
"""


def test_a_control_group_that_fills_up_costs_one_task_before_the_kernel_ends_a_process(tmp_path):
    group = f"/sys/fs/cgroup/memory/zray-test-{os.getpid()}"
    v2 = f"/sys/fs/cgroup/zray-test-{os.getpid()}"
    group, limit, kills = next(((path, name, events) for path, name, events in (
        (v2, "memory.max", "memory.events"), (group, "memory.limit_in_bytes", "memory.oom_control"))
        if _made(path, name)), ("", "", ""))
    if not group:
        pytest.skip("this user may not make a control group that limits memory")
    try:
        with open(f"{group}/{limit}", "w") as file:
            file.write(str(512 * MIB))
        inside = ["sh", "-c", f"echo $$ > {group}/cgroup.procs && exec \"$@\"", "sh"]
        done = subprocess.run([*inside, sys.executable, "-c", IN_A_GROUP], env=environment(), capture_output=True,
                              text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"limit of the control group {group}" in done.stdout and done.stdout.split()[-1] == "7"
        with open(f"{group}/{kills}") as file:
            assert dict(line.split() for line in file).get("oom_kill", "0") == "0", "the kernel had nothing to do"
    finally:
        until(lambda: _removed(group), "the group is empty", 20)


def _made(group, limit):
    try:
        os.mkdir(group)
    except OSError:
        return False
    if os.path.exists(f"{group}/{limit}"):
        return True
    os.rmdir(group)
    return False


def _removed(group):
    try:
        os.rmdir(group)
    except OSError:
        return False
    return True


