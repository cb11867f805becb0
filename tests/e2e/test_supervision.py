"""Nodes in the foreground, as systemd, containers and terminals run them: they end when told to, and leave nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios

import pytest

from benchmarks.proc import name_of
from tests.e2e.leaks import only_logs
from tests.e2e.nodes import ended, states
from tests.e2e.scripts import environment, zray
from tests.e2e.target import until
from tests.e2e.test_node_processes import children_of, segments, tmp_sessions  # noqa: F401
from zray.cluster_utils import Cluster
from zray.node.running.ask import NodeClient

pytest.importorskip("click")
pytestmark = [pytest.mark.zray_only, pytest.mark.usefixtures("tmp_sessions")]

COMMANDS = {
    "zray start --block": ["-c", "import sys; from zray.cli import main; sys.exit(main())", "start", "--block"],
    "zray-node": ["-c", "from zray.node.daemon import main; main()"],
}


class Foreground:
    """A node that a supervisor started; ``family`` are its processes at the time when it had one of each."""

    def __init__(self, process: subprocess.Popen[str], pid: int = 0):
        self.process = process
        said = process.stdout.readline()
        self.session_dir = re.search(r"runs in (\S+)", said).group(1)
        self.pid = pid or process.pid
        self.family: list[int] = []

    def settle(self) -> Foreground:
        def complete() -> bool:
            self.family = children_of(self.pid)
            return {"zray-zygote", "zray-worker"} <= set(map(name_of, self.family))

        until(complete)
        return self

    def assert_nothing_left(self) -> None:
        until(lambda: all(map(ended, [self.pid, *self.family])), "its processes end")
        assert not segments(self.session_dir) and only_logs(self.session_dir)


@pytest.fixture
def run():
    """Start a command in the foreground; whatever the test did, it is not running afterwards."""
    with contextlib.ExitStack() as stack:
        def start(how: str, *arguments: str, before: tuple[str, ...] = (), **popen) -> subprocess.Popen[str]:
            process = subprocess.Popen([*before, sys.executable, *COMMANDS[how], *arguments], text=True, bufsize=1,
                                       **{"stdout": subprocess.PIPE, "env": environment(), **popen})
            stack.callback(_end, process)
            return process

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("how", COMMANDS)
def test_a_signal_ends_the_node_with_exit_code_0_and_leaves_nothing(run, how, number):
    node = Foreground(run(how, "--head", "--num-cpus", "1")).settle()
    node.process.send_signal(number)
    assert node.process.wait(30) == 0
    node.assert_nothing_left()


def test_a_signal_to_the_whole_process_group_is_one_end(run):
    node = Foreground(run("zray start --block", "--head", "--num-cpus", "1", start_new_session=True)).settle()
    os.killpg(node.pid, signal.SIGTERM)
    assert node.process.wait(30) == 0
    node.assert_nothing_left()


def test_zray_stop_ends_a_node_that_blocks_with_exit_code_0(run):
    node = Foreground(run("zray start --block", "--head", "--num-cpus", "1")).settle()
    assert node.session_dir in zray("stop")
    assert node.process.wait(30) == 0
    node.assert_nothing_left()


def test_a_killed_command_takes_its_node_with_it(run):
    node = Foreground(run("zray start --block", "--head", "--num-cpus", "1")).settle()
    node.process.kill()
    until(lambda: all(map(ended, node.family)), "nothing runs on")
    zray("stop")
    following = Foreground(run("zray start --block", "--head", "--num-cpus", "1")).settle()
    assert not segments(node.session_dir), "the next start sweeps up"
    following.process.terminate()
    assert following.process.wait(30) == 0


def test_a_terminal_that_closes_ends_the_node(run):
    ours, theirs = os.openpty()

    def control() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = run("zray start --block", "--head", "--num-cpus", "1", stdin=theirs, stdout=theirs, stderr=theirs,
                  preexec_fn=control)
    os.close(theirs)
    with open(ours, closefd=False) as process.stdout:
        node = Foreground(process).settle()
    process.stdout = None
    os.close(ours)
    assert process.wait(30) == 0
    node.assert_nothing_left()


def test_with_nohup_a_node_outlives_its_terminal_and_its_output(run):
    node = Foreground(run("zray start --block", "--head", "--num-cpus", "1", stderr=subprocess.STDOUT,
                          preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))).settle()
    node.process.stdout.close()
    node.process.send_signal(signal.SIGHUP)
    said = zray("start", "--num-cpus", "1", "--address", f"@{node.session_dir}/join")  # the head prints a line about it
    asker = NodeClient(node.session_dir)
    assert len(asker.ask("nodes")["nodes"]) == 2
    asker.close()
    zray("stop", "--session-dir", re.search(r"runs in (\S+)", said).group(1))
    node.process.terminate()
    assert node.process.wait(30) == 0
    node.assert_nothing_left()


def test_a_signal_while_the_node_starts_ends_it_and_leaves_nothing(run, tmp_sessions):  # noqa: F811
    from zray.transport.credentials import JoinString, encode_join

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        join = encode_join(JoinString("127.0.0.1", port, b"c" * 16, b"node", bytes(32), b"t" * 32, 2e9))
        process = run("zray-node", "--insecure", env=environment(ZRAY_JOIN=join), stderr=subprocess.PIPE)
        with silent.accept()[0]:  # it is on its way in
            process.terminate()
            _, said = process.communicate(timeout=30)
    assert process.returncode == 0 and "SIGTERM came before the node served" in said
    assert not [name for _, below, _ in os.walk(tmp_sessions) for name in below if name.startswith("20")]


def test_a_node_that_was_declared_dead_and_may_not_join_again_exits_with_1(run):
    cluster = Cluster(shutdown_at_exit=False)
    try:
        head = cluster.add_node(num_cpus=1, _system_config={"node_timeout_s": 1.0})
        node = Foreground(run("zray start --block", "--num-cpus", "1",
                              env=environment(ZRAY_JOIN=cluster.join_string, ZRAY_REJOIN_S="0"))).settle()
        node.process.send_signal(signal.SIGSTOP)
        until(lambda: "dead" in states(head).values(), "the head declares it dead", 30)
        node.process.send_signal(signal.SIGCONT)
        assert node.process.wait(30) == 1
        node.assert_nothing_left()
    finally:
        cluster.shutdown()


def _may_unshare() -> bool:
    return bool(shutil.which("unshare") and shutil.which("nsenter")) and subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="this user may not make process namespaces")
def test_as_the_first_process_of_a_container_it_runs_work_reaps_orphans_and_ends_on_sigterm(run, tmp_path):
    container = run("zray start --block", "--head", "--num-cpus", "1",
                    before=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    line = container.stdout.readline()
    session_dir = re.search(r"runs in (\S+) \(pid 1\)", line).group(1)
    [pid] = children_of(container.pid)
    script = tmp_path / "work.py"
    script.write_text("""
import os, subprocess, time
import zray as ray
ray.init("auto")
@ray.remote
def orphan():
    out = subprocess.run("sleep 0 & echo $!", shell=True, capture_output=True, text=True).stdout
    while os.path.exists(f"/proc/{int(out)}"):
        time.sleep(0.01)
    return os.getppid()
assert ray.get(orphan.remote()) == 1
""")
    done = subprocess.run(["nsenter", "--target", str(pid), "--pid", "--mount", sys.executable, str(script)],
                          env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    os.kill(pid, signal.SIGTERM)
    assert container.wait(30) == 0
    assert ended(pid) and not segments(session_dir) and only_logs(session_dir)
