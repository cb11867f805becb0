"""What a driver says of the end of its node: what it saw (zray.core.witness)."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys

import pytest

from zray.base import errors
from zray.core.witness import Witness

PROGRAM = "import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit(3)"


@pytest.fixture
def process():
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


def error(detail) -> errors.LocalRayletDiedError:
    found = errors.from_failure("raylet_died", {"node": "aa", **detail})
    assert isinstance(found, errors.LocalRayletDiedError)
    return found


def test_a_process_that_was_killed_is_said_to_have_been_with_its_signal_and_its_last_lines(process, tmp_path):
    log = tmp_path / "node.log"
    log.write_text("the first line\nthe last line\n")
    witness = Witness(process.pid, str(log))
    log.unlink()  # the session's directory goes with the node
    process.send_signal(signal.SIGKILL)
    said = error(witness.account())
    assert f"pid={process.pid}" in str(said) and "SIGKILL" in str(said) and "the last line" in str(said)
    assert (said.pid, said.signal, said.exit_code) == (process.pid, signal.SIGKILL, 0)
    witness.close()
    assert process.wait(10) == -signal.SIGKILL, "its parent can still collect it"


def test_a_process_with_thousands_of_open_files_sees_the_end_of_its_node(process, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("descriptors above 1023 are not allowed here")
    witness = Witness(process.pid, str(tmp_path / "none"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        high = fcntl.fcntl(witness._process, fcntl.F_DUPFD_CLOEXEC, 1500)
        os.close(witness._process)
        witness._process = high
        process.kill()
        assert "SIGKILL" in str(error(witness.account()))
        witness.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_end_by_a_signal_that_has_no_name_is_told_by_its_number(process, tmp_path):
    witness = Witness(process.pid, str(tmp_path / "none"))
    process.send_signal(signal.SIGRTMIN + 1)
    assert f"signal {signal.SIGRTMIN + 1}" in str(error(witness.account()))
    witness.close()


def test_a_process_that_exited_is_said_to_have_with_its_exit_code(process, tmp_path):
    witness = Witness(process.pid, str(tmp_path / "none"))
    process.stdin.write(b"\n")
    process.stdin.flush()
    said = error(witness.account())
    assert "exit code 3" in str(said) and said.exit_code == 3
    witness.close()


def test_a_process_that_lives_is_not_said_to_have_ended(process, tmp_path):
    witness = Witness(process.pid, str(tmp_path / "none"))
    assert "although its process" in str(error(witness.account()))
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert "stopped by a signal" in str(error(witness.account()))
    witness.close()


def test_a_process_that_was_gone_before_is_said_to_have_ended(process, tmp_path):
    process.kill()
    process.wait(10)
    witness = Witness(process.pid, str(tmp_path / "none"))
    assert "has ended" in str(error(witness.account()))
    witness.close()
