"""The join string lets its reader run code in the cluster: nobody else can read it, and no worker is handed it."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.leaks import Footprint
from tests.e2e.nodes import ask
from tests.e2e.scripts import environment, run_script, zray
from tests.e2e.target import ray, until
from zray.cluster_utils import Cluster
from zray.node.running.ask import NodeClient

pytest.importorskip("click")
pytestmark = pytest.mark.zray_only
DAEMON = "from zray.node.daemon import main; main()"


def of_processes(what: str) -> dict[str, bytes]:
    """What /proc says of each process but this one and its threads."""
    found = {}
    for path in glob.glob(f"/proc/[0-9]*/{what}"):
        if int(path.split("/")[2]) != os.getpid():
            try:
                found[path] = Path(path).read_bytes()
            except OSError:
                pass  # it has ended
    return found


def files_below(directory: str) -> list[Path]:
    return [path for path in Path(directory).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def heads(session_root):
    """A head, and the secret part of its join string."""
    footprint = Footprint(session_root)
    try:
        said = zray("start", "--head", "--num-cpus", "1")
        file = re.search(r"--address @(\S+)", said).group(1)
        join = Path(file).read_text()
        yield said, file, join
    finally:
        ray.shutdown()
        zray("stop")
    footprint.check()


def assert_secret(join: str, session_root: str) -> None:
    secret = join.rpartition("/")[2].encode()
    for what in ("cmdline", "environ"):
        assert not [path for path, text in of_processes(what).items() if secret in text], what
    holders = [path for path in files_below(session_root) if secret in path.read_bytes()]
    assert {path.name for path in holders} == {"join", "node.json"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}


def test_the_start_of_a_head_names_a_private_file_and_not_the_secret(heads, session_root):
    said, file, join = heads
    assert join.startswith("zray://") and join.rpartition("/")[2] not in said
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert_secret(join, session_root)


@pytest.mark.parametrize("form", ["file", "stdin", "variable", "plain"])
def test_a_node_that_joins_by_any_form_shows_the_secret_to_nobody(heads, session_root, form, tmp_path):
    _, file, join = heads
    secret = join.rpartition("/")[2]
    env = {"ZRAY_JOIN": join} if form == "variable" else {}
    arguments = {"file": ["--address", f"@{file}"], "stdin": ["--address", "-"], "variable": [],
                 "plain": ["--address", join]}[form]
    program = "import sys; from zray.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "start", "--num-cpus", "1", "--resources", '{"new": 1}',
                           *arguments], env=environment(**env), input=join + "\n", text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    session_dir = re.search(r"runs in (\S+)", done.stdout).group(1)
    try:
        assert secret not in done.stdout + done.stderr
        script = """
import os, pathlib, zray as ray
ray.init("auto")
@ray.remote(resources={"new": 1})
def seen():
    return "".join(os.environ.values()) + pathlib.Path("/proc/self/environ").read_text()
print(ray.get(seen.remote()))
"""
        assert secret not in run_script(tmp_path, script).stdout, "user code is not handed it"
        for command in (["status"], ["status", "--format", "json"], ["doctor"], ["list", "nodes", "--detail"]):
            assert secret not in zray(*command), command
        assert_secret(join, session_root)
    finally:
        zray("stop", "--session-dir", session_dir)


@pytest.mark.parametrize("form", ["plain", "variable"])
def test_a_daemon_in_the_foreground_blanks_what_it_was_started_with(heads, session_root, form):
    _, _, join = heads
    arguments = ["--address", join] if form == "plain" else []
    env = {"ZRAY_JOIN": join} if form == "variable" else {}
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, "--num-cpus", "1", *arguments], env=environment(**env),
                              text=True, stdout=subprocess.PIPE)
    try:
        session_dir = re.search(r"runs in (\S+)", daemon.stdout.readline()).group(1)
        asker = NodeClient(session_dir)
        until(lambda: asker.ask("workers")["workers"], "a worker is there to look at")
        asker.close()
        assert_secret(join, session_root)
    finally:
        daemon.terminate()
        daemon.communicate()
    assert daemon.returncode == 0


def test_a_cluster_of_a_program_shows_no_secret():
    cluster = Cluster(shutdown_at_exit=False)
    try:
        cluster.add_nodes([{"num_cpus": 1}, {"num_cpus": 1}])
        join = cluster.join_string
        for what in ("cmdline", "environ"):
            assert not [path for path, text in of_processes(what).items() if join.encode() in text]
        handle = cluster.head_node.handle
        assert join not in repr(handle.session) and join not in str(ask(cluster.head_node, "nodes"))
    finally:
        cluster.shutdown()


def test_no_error_repeats_a_join_string(heads, tmp_path):
    _, _, join = heads
    secret = join.rpartition("/")[2]
    for said in (zray("start", join, code=2), zray("start", "--adress", join, code=2),
                 zray("status", "--address", join + "AA", code=1)):
        assert secret not in said
    done = subprocess.run([sys.executable, "-c", DAEMON, join], env=environment(), text=True, capture_output=True)
    assert done.returncode == 2 and "zray://" in done.stderr and secret not in done.stderr
    run_script(tmp_path, "import zray as ray; ray.init('auto')", join)
    assert secret not in zray("list", "jobs", "--format", "json")


def test_a_file_without_a_join_string_is_a_clear_error(heads, tmp_path):
    _, file, _ = heads
    (tmp_path / "empty").write_text("\n")
    for address, why in ((f"@{tmp_path}/none", "cannot read a join string"), (f"@{tmp_path}/empty", "is empty"),
                         (file, f"write --address @{file}")):
        assert why in zray("start", "--address", address, code=1)
