"""Nodes that were declared dead and are back: they join again by themselves, and nothing is doubled."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.hosts import Hosts, go_on, may_make_networks, stop
from tests.e2e.nodes import ended, states
from tests.e2e.scripts import environment, zray
from tests.e2e.target import until
from tests.e2e.test_node_processes import tmp_sessions  # noqa: F401
from tests.e2e.test_supervision import Foreground, run  # noqa: F401
from zray.node.running import session as sessions
from zray.store.segment import arena_name

pytest.importorskip("click")
pytestmark = [pytest.mark.zray_only, pytest.mark.usefixtures("tmp_sessions")]

SOON = {"ZRAY_NODE_TIMEOUT_S": "1.0"}


class Place:
    """A node that a test asks about, by its session directory."""

    def __init__(self, session_dir):
        self.session_dir = session_dir

    @property
    def id(self):
        """Of the node that runs there now."""
        found = sessions.read(self.session_dir)
        return found.node_id if found is not None else ""


def alive(place):
    """The nodes that ``place`` believes alive; none while it does not serve."""
    try:
        return {node for node, state in states(place).items() if state == "alive"}
    except (ConnectionError, OSError, TimeoutError):
        return set()


@pytest.fixture
def started():
    """``started("--head", ...)`` is ``zray start`` in the background: its place and pid.  All end with the test."""
    places = []

    def start(*arguments, before=(), **env):
        program = "import sys; from zray.cli import main; sys.exit(main())"
        done = subprocess.run([*before, sys.executable, "-c", program, "start", "--num-cpus", "1", *arguments],
                              env=environment(**{**SOON, **env}), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"runs in (\S+) \(pid (\d+)\)", done.stdout)
        places.append(found.group(1))
        return Place(found.group(1)), int(found.group(2))

    yield start
    for place in places:
        found = sessions.read(place)
        if found is not None and found.alive():
            with contextlib.suppress(ProcessLookupError):
                go_on(found.pid)
    zray("stop", "--all")


def stopped_until_declared_dead(pid, node, by):
    """SIGSTOP until ``by`` has declared ``node`` dead, then SIGCONT."""
    stop(pid)
    try:
        until(lambda: states(by)[node] == "dead", "it is declared dead")
    finally:
        go_on(pid)


def becomes_another(place, before, by):
    """Wait until the node at ``place`` has another id, and is alive for itself and ``by``."""
    until(lambda: place.id not in ("", before) and place.id in alive(by) & alive(place), "it is back")
    assert before not in alive(by)


def test_a_stopped_node_in_the_foreground_is_back_as_the_same_process_and_ends_with_0(run, started):  # noqa: F811
    head, _ = started("--head")
    node = Foreground(run("zray start --block", "--num-cpus", "1", "--address", f"@{head.session_dir}/join",
                          env=environment(**SOON))).settle()
    place = Place(node.session_dir)
    before, family = place.id, node.family
    niceness = os.getpriority(os.PRIO_PROCESS, node.pid)
    for _ in range(2):
        stopped_until_declared_dead(node.pid, before, head)
        becomes_another(place, before, head)
        until(lambda family=family: all(map(ended, family)), "what belonged to the node before has ended")
        before, family = place.id, node.settle().family
    assert os.getpriority(os.PRIO_PROCESS, node.pid) == niceness
    assert "joins again as a new node" in Path(node.session_dir, "logs", "node.log").read_text()
    said = zray("stop", "--session-dir", node.session_dir)
    assert f"stopped {node.session_dir} (pid {node.pid})" in said
    assert node.process.wait(30) == 0
    node.assert_nothing_left()


WORK = """
import sys, time
import zray as ray
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(sys.argv[1], namespace="test")

@ray.remote(num_cpus=0, resources={"x": 0.1}, max_restarts=2, max_task_retries=-1)
class Counts:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count, ray.get_runtime_context().get_node_id()
    def pid(self):
        import os
        return os.getpid()

@ray.remote(num_cpus=0, resources={"x": 0.1})
def where():
    return ray.get_runtime_context().get_node_id()

first = NodeAffinitySchedulingStrategy(sys.argv[2], soft=True)
actor = Counts.options(name="counts", scheduling_strategy=first).remote()
assert ray.get(actor.add.remote()) == (1, sys.argv[2])
print(ray.get(actor.pid.remote()), flush=True)
assert sys.stdin.readline().strip() == "dead"
count, moved = ray.get(actor.add.remote(), timeout=30)
assert count == 1 and moved == sys.argv[3], "its only life runs on the other node"
back = sys.stdin.readline().strip()
there = NodeAffinitySchedulingStrategy(back, soft=False)
assert ray.get(where.options(scheduling_strategy=there).remote(), timeout=30) == back
assert ray.get(actor.add.remote()) == (2, sys.argv[3]), "it has not moved back, and there is no other"
assert ray.get(ray.get_actor("counts").add.remote()) == (3, sys.argv[3])
print(back, flush=True)
"""

LOST = """
import sys
import zray as ray
ray.init(sys.argv[1])
@ray.remote(num_cpus=0)
def forever(path):
    import time
    open(path, "w").close()
    time.sleep(600)
ref = forever.remote(sys.argv[2])
try:
    ray.get(ref)
except ray.exceptions.LocalRayletDiedError as error:
    print(error, flush=True)
ray.shutdown()
ray.init(sys.argv[1])  # the node that its process is now
print(ray.get(ray.remote(lambda: 7).remote()), flush=True)
"""


def test_work_of_a_node_that_is_back_is_neither_lost_nor_doubled_and_its_drivers_get_a_typed_error(started, tmp_path):
    head, _ = started("--head")
    lost, pid = started("--address", f"@{head.session_dir}/join", "--resources", '{"x": 1}')
    other, _ = started("--address", f"@{head.session_dir}/join", "--resources", '{"x": 1}')
    before, mark = lost.id, tmp_path / "mark"
    until(lambda: {head.id, before, other.id} <= alive(head) & alive(lost) & alive(other))
    pipes = {"env": environment(), "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        def driver(source, *arguments):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", source, *arguments], **pipes))
            stack.callback(process.kill)
            return process

        works = driver(WORK, head.session_dir, before, other.id)
        loses = driver(LOST, lost.session_dir, str(mark))
        actor = int(works.stdout.readline())
        until(mark.exists, "the task runs")
        stop(pid)
        until(lambda: states(head)[before] == "dead", "it is declared dead")
        works.stdin.write("dead\n")
        works.stdin.flush()
        until(lambda: not ended(actor), "the process of the actor's old life still exists")
        go_on(pid)
        becomes_another(lost, before, head)
        until(lambda: ended(actor), "the old life of the actor is over")
        works.stdin.write(f"{lost.id}\n")
        works.stdin.flush()
        assert works.stdout.readline().strip() == lost.id
        assert "declared the node dead (" in loses.stdout.readline()
        assert "7" in loses.stdout.read()
        assert works.wait(30) == 0 and loses.wait(30) == 0
    said = zray("stop")
    assert f"(pid {pid})" in said, "zray stop finds the node that is back"
    assert not os.path.exists(f"/dev/shm/{arena_name(os.path.basename(lost.session_dir))}")


STREAM = """
import os, sys, time
import zray as ray
ray.init(sys.argv[1])
@ray.remote(num_cpus=0.1)
def work(i):
    return i
print("ready", flush=True)
i = worst = 0
while True:
    began = time.monotonic()
    assert ray.get(work.options(scheduling_strategy="SPREAD").remote(i), timeout=60) == i
    worst, i = max(worst, time.monotonic() - began), i + 1
    with open(sys.argv[2] + ".new", "w") as file:
        file.write(f"{worst:.2f}")
    os.replace(sys.argv[2] + ".new", sys.argv[2])
"""

CUT_S = 12.0


@pytest.mark.slow
@pytest.mark.skipif(not may_make_networks(), reason="this user may not make network namespaces")
def test_a_host_that_is_cut_off_for_12_s_is_back_by_itself_and_work_goes_on_meanwhile(started, tmp_path):
    hosts = Hosts(3)
    try:
        head, _ = started("--head", "--host", hosts.address(0), before=hosts.within(0), ZRAY_NODE_TIMEOUT_S="3")
        join = f"@{head.session_dir}/join"
        _, lost = (started("--address", join, "--host", hosts.address(number), before=hosts.within(number),
                           ZRAY_NODE_TIMEOUT_S="3")[0] for number in (1, 2))
        before = lost.id
        until(lambda: len(alive(head) & alive(lost)) == 3)
        command = [*hosts.within(0), sys.executable, "-c", STREAM, head.session_dir, str(tmp_path / "worst")]
        with subprocess.Popen(command, env=environment(), text=True, stdout=subprocess.PIPE) as driver:
            try:
                assert driver.stdout.readline() == "ready\n"
                hosts.pull(2)
                end = time.monotonic() + CUT_S
                until(lambda: states(head)[before] == "dead", "it is declared dead")
                until(lambda: time.monotonic() >= end)
                hosts.plug(2)
                healed = time.monotonic()
                becomes_another(lost, before, head)
                print(f"back after {time.monotonic() - healed:.1f} s; the slowest task took "
                      f"{(tmp_path / 'worst').read_text()} s")
            finally:
                driver.kill()
    finally:
        zray("stop", "--all")
        hosts.close()
