"""``zray start``, ``status``, ``list``, ``stop`` and ``init`` with a cluster of several nodes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.leaks import Footprint
from tests.e2e.nodes import listening
from tests.e2e.scripts import environment, run_script, zray
from tests.e2e.target import ray

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only

def zray_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from zray.node.daemon import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], env=environment(), text=True,
                          capture_output=True, timeout=60)


class Started:
    """What ``zray start`` has said."""

    def __init__(self, said: str):
        self.said = said
        self.session_dir, pid, self.address = re.search(r"runs in (\S+) \(pid (\d+)\), at (\S+)\.\n", said).groups()
        self.pid = int(pid)
        self.join_file = re.search(r"zray start --address @(\S+)", said).group(1)
        self.join = Path(self.join_file).read_text()


@pytest.fixture(scope="module")
def two(session_root):
    """A cluster of two nodes as the commands make it."""
    footprint = Footprint(session_root)
    try:
        first = Started(zray("start", "--head", "--num-cpus", "1"))
        second = Started(zray("start", "--address", f"@{first.join_file}", "--num-cpus", "1", "--node-name", "second",
                              "--resources", '{"disk": 2}', "--port-range", "23100-23199"))
        yield first, second
    finally:
        ray.shutdown()
        zray("stop")
    footprint.check()


def test_status_shows_nodes_resources_and_control_store(two):
    said = zray("status", COLUMNS="300")
    assert said.startswith("runs: nothing\nwaits: nothing\n")
    assert "2 nodes:" in said and "second" in said and two[0].address in said
    [used] = [line for line in said.splitlines() if line.startswith("in use: ")]
    assert "0/2 disk" in used and "0/2 CPU" in used
    assert re.search(r"control store: (shards [0-7, -]+ on [0-9a-f]{8} -> [0-9a-f]{8};? ?)+decided by", said)
    found = json.loads(zray("status", "--address", two[0].session_dir, "--format", "json"))
    assert len(found["nodes"]) == 2 and found["resources"]["CPU"] == 2 and found["control_store"]["voters"]


def test_lists_are_of_the_whole_cluster_whichever_node_is_asked(two, tmp_path):
    run_script(tmp_path, """
import zray as ray
ray.init("auto", namespace="lists")
@ray.remote(resources={"disk": 1}, num_cpus=0)
class Keeper:
    def f(self):
        return 1
keeper = Keeper.options(name="keeper", lifetime="detached").remote()
ray.get(keeper.f.remote())
""")
    for started in two:
        nodes = json.loads(zray("list", "nodes", "--address", started.session_dir, "--format", "json"))
        nodes = [node for node in nodes if node["state"] == "ALIVE"]
        assert len(nodes) == 2
        actors = json.loads(zray("list", "actors", "--address", started.session_dir, "--format", "json"))
        disk = next(node["node_id"] for node in nodes if "disk" in node["resources_total"])
        assert [(a["name"], a["state"], a["node_id"]) for a in actors] == [("keeper", "ALIVE", disk)]
    tasks = json.loads(zray("list", "tasks", "--address", two[0].session_dir, "--format", "json"))
    assert "Keeper.f" in {row["name"] for row in tasks}
    jobs = json.loads(zray("list", "jobs", "--address", two[1].session_dir, "--format", "json"))
    assert len(jobs) == len({job["job_id"] for job in jobs}), "a job is listed once"
    ray.init("auto", namespace="lists")
    ray.kill(ray.get_actor("keeper"))
    ray.shutdown()


def test_init_takes_auto_a_join_string_an_address_and_a_session_directory(two):
    first, second = two
    for address in ("auto", first.join, f"@{second.join_file}", first.address, second.address, second.session_dir):
        ray.init(address)
        assert len(ray.nodes()) == 2 and ray.cluster_resources()["disk"] == 2
        if address in (second.address, second.session_dir):
            assert ray.nodes()[0]["NodeName"] == "second", "the driver is on the node that was named"
        ray.shutdown()


def test_an_address_without_a_node_on_this_machine_is_a_clear_error(two):
    with pytest.raises(ConnectionError, match=r"no node of this user listens at 10\.1\.2\.3:6379"):
        ray.init("10.1.2.3:6379")
    with pytest.raises(ConnectionError, match="neither 'auto', nor the directory"):
        ray.init("somewhere")
    foreign = _of_another_cluster()
    with pytest.raises(ConnectionError, match="no node of that cluster runs on this machine"):
        ray.init(foreign)
    with pytest.raises(ConnectionError, match="cut off"):
        ray.init(two[0].join[:60])


def test_a_name_is_given_once(two):
    said = zray("start", "--address", two[0].join, "--node-name", "second", code=1)
    assert "another node is called 'second'" in said


def test_a_port_in_use_is_refused(two):
    port = two[0].address.rpartition(":")[2]
    assert f"port {port} is in use" in zray("start", "--head", "--new-cluster", "--port", port, code=1)


def test_endpoints_of_workers_and_drivers_keep_to_the_port_range(two):
    ray.init(two[0].session_dir)

    @ray.remote(resources={"disk": 1})
    class Here:
        def pid(self):
            return os.getpid()

    actor = Here.remote()
    pid = ray.get(actor.pid.remote())
    ports = listening(pid)
    ray.shutdown()
    assert ports and all(23100 <= port <= 23199 for port in ports)


@pytest.mark.slow
def test_insecure_says_so_loudly_and_mixes_with_nothing_else(two, session_root):
    with _elsewhere() as there:
        head = Started(zray("start", "--head", "--insecure", "--num-cpus", "1", **there))
        assert "INSECURE" in head.said
        assert "authenticates its nodes: join it without --insecure" in zray(
            "start", "--address", two[0].join, "--insecure", code=1)
        assert "join it with --insecure" in zray("start", "--address", head.join, code=1)
        other = Started(zray("start", "--address", head.join, "--insecure", "--num-cpus", "2", **there))
        assert "INSECURE" in other.said and "0/3 CPU" in zray("status", **there)


def test_two_clusters_on_one_machine_do_not_see_each_other_and_stop_ends_one(two, tmp_path):
    program = """
import sys, zray as ray
ray.init("auto", namespace="same")
@ray.remote
class A:
    def f(self):
        return sys.argv[1]
if sys.argv[1] == "make":
    ray.get(A.options(name="a", lifetime="detached").remote().f.remote())
    print(len(ray.nodes()))
else:
    try:
        ray.kill(ray.get_actor("a"))
        print("found", len(ray.nodes()))
    except ValueError:
        print("none", len(ray.nodes()))
"""
    with _elsewhere() as there:
        zray("start", "--head", "--num-cpus", "1", **there)
        assert run_script(tmp_path, program, "make").stdout.split() == ["2"]
        assert run_script(tmp_path, program, "look", **there).stdout.split() == ["none", "1"]
        said = zray("stop", **there)
        assert said.count("stopped") == 1
        assert "2 nodes" in zray("status"), "the other cluster runs on"
        assert run_script(tmp_path, program, "look").stdout.split() == ["found", "2"]


def test_a_second_head_is_refused_unless_meant_and_then_auto_names_both(two, session_root):
    said = zray("start", "--head", "--num-cpus", "1", code=1)
    assert two[0].session_dir in said or two[1].session_dir in said
    assert "zray start --address @" in said and "--new-cluster" in said
    other = Started(zray("start", "--head", "--new-cluster", "--num-cpus", "1"))
    try:
        assert f"zray.init('{other.session_dir}')" in other.said and "2 clusters run here" in other.said
        with pytest.raises(ConnectionError, match="'auto' could mean 2 clusters") as error:
            ray.init("auto")
        assert other.session_dir in str(error.value)
        assert any(one.session_dir in str(error.value) for one in two), "each by its newest node"
        assert f"2 sessions run; this is {other.session_dir}" in zray("status"), "a command takes the newest"
        assert "1 node:" in zray("status", "--address", other.session_dir)
    finally:
        zray("stop", "--session-dir", other.session_dir)
    assert "2 nodes" in zray("status")


def test_a_session_directory_in_use_is_refused_and_left_alone(two):
    said = zray("start", "--head", "--session-dir", two[0].session_dir, code=1)
    assert f"already (pid {two[0].pid})" in said
    assert "2 nodes" in zray("status", "--address", two[0].session_dir)


def test_stopping_one_session_is_a_leave_and_its_join_string_then_says_that_it_has_ended(two):
    third = Started(zray("start", "--address", two[1].join, "--num-cpus", "1"))
    assert "3 nodes" in zray("status")
    assert third.session_dir in zray("stop", "--session-dir", third.session_dir)
    rows = json.loads(zray("list", "nodes", "--address", two[0].session_dir, "--format", "json"))
    assert sorted(row["state"] for row in rows) == ["ALIVE", "ALIVE", "DEAD"]
    assert "nobody listens" in zray("start", "--address", third.join, code=1)


def test_a_node_is_drained_by_its_name_and_others_are_asked_for_their_processes(two, tmp_path):
    third = Started(zray("start", "--address", f"@{two[0].join_file}", "--num-cpus", "1", "--node-name", "third",
                         "--resources", '{"third": 1}'))
    try:
        run_script(tmp_path, """
import subprocess, sys, time, zray as ray
ray.init("auto")

@ray.remote(resources={"third": 1}, num_cpus=0)
class There:
    def stays(self, path):
        open(path, "w").close()
        time.sleep(100)

there = There.options(name="there").remote()
ref = there.stays.remote("ran")
import os
while not os.path.exists("ran"):
    time.sleep(0.01)
zray = lambda *words: subprocess.run([sys.executable, "-m", "zray.cli", *words, "--address", sys.argv[1]],
                                     capture_output=True, text=True).stdout
until = time.monotonic() + 30
while "time.sleep(100)" not in (said := zray("stack", "there")):
    assert time.monotonic() < until, said
assert "stays() runs on pid" in zray("why", "there")
assert "killed actor There there" in zray("kill", "there")
""", two[0].session_dir)
        assert "no node with id or name 'nobody'" in zray("drain-node", "nobody", code=1)
        assert "has left" in zray("drain-node", "third", "--address", two[0].session_dir)
        rows = json.loads(zray("list", "nodes", "--address", two[0].session_dir, "--format", "json"))
        assert [row["state"] for row in rows if row["node_name"] == "third"] == ["DEAD"]
    finally:
        if "third" in zray("list", "nodes", "--filter", "state=ALIVE", "--address", two[0].session_dir):
            zray("stop", "--session-dir", third.session_dir)


def test_the_daemon_says_in_one_sentence_what_is_wrong_with_its_arguments(two):
    for arguments, why in ((("--address", two[0].join[:-30]), "cut off"), (("--head", "--num-cpus", "-1"), "negative")):
        done = zray_node(*arguments)
        assert done.returncode == 1 and why in done.stderr and done.stderr.count("\n") == 1, done.stderr
    unknown = zray_node("--frobnicate")
    assert unknown.returncode == 2 and "unrecognized arguments: --frobnicate" in unknown.stderr


# ------------------------------------------------------------ helpers


@contextlib.contextmanager
def _elsewhere():
    """Settings for a cluster of its own, which is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp") as root:
        there = {"ZRAY_TMPDIR": root}
        try:
            yield there
        finally:
            zray("stop", **there)


def _of_another_cluster() -> str:
    """A join string of a cluster that is not here."""
    from zray.transport.credentials import JoinString, encode_join

    return encode_join(JoinString("127.0.0.1", 1, b"c" * 16, b"node", b"k" * 32, b"t" * 32, 2e9))


def test_a_node_in_a_directory_outside_of_the_sessions_is_stopped_by_its_name():
    with tempfile.TemporaryDirectory(prefix="zray-own-") as own:
        node = Started(zray("start", "--head", "--new-cluster", "--session-dir", f"{own}/node", "--num-cpus", "1"))
        assert zray("stop", "--session-dir", node.session_dir) == f"stopped {node.session_dir} (pid {node.pid})\n"
        assert "no zray node of this user runs in" in zray("stop", "--session-dir", node.session_dir, code=1)
