"""The keeper of a job's entrypoint: its log is bounded, and with it ends everything that the entrypoint started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.nodes import ended
from tests.e2e.target import until
from zray.job_submission import keeper


@pytest.fixture
def keep(tmp_path):
    """``keep(entrypoint, **more)``: a keeper that runs it; its reports are lines of its stdout."""
    kept = []

    def start(entrypoint, log_bytes_max=1 << 20, grace_s=20.0):
        process = subprocess.Popen([sys.executable, "-I", "-S", keeper.__file__], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, start_new_session=True)
        kept.append(process)
        job = {"entrypoint": entrypoint, "log": str(tmp_path / "log"), "log_bytes_max": log_bytes_max,
               "grace_s": grace_s}
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        return process

    yield start
    for process in kept:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()


@pytest.fixture
def log(tmp_path):
    """``log()``: what the entrypoint has printed; ``log(text)`` waits for a text."""
    path = tmp_path / "log"

    def read(text=""):
        return until(lambda: path.exists() and text in path.read_text() and path.read_text() or not text,
                     lambda: f"it prints {text!r}") and path.read_text()

    return read


def report(process):
    """The last report, when the keeper has ended."""
    lines = process.stdout.read().splitlines()
    assert process.wait(30) == 0
    return json.loads(lines[-1])


def test_it_reports_the_exit_code_and_logs_both_streams(keep, log):
    process = keep("echo out; echo err >&2; exit 3")
    assert report(process) == {"returncode": 3, "stopped": False}
    assert log() == "out\nerr\n"


def test_a_log_that_is_full_drops_the_rest_with_a_count(keep, log):
    process = keep("yes | head -c 3000000", log_bytes_max=1000)
    assert report(process)["returncode"] == 0
    assert log() == "y\n" * 500 + "\n[the log is full: 2999000 more bytes were dropped]\n"


def test_a_stop_waits_for_every_process_of_the_group(keep, log):
    """The shell ends at once, and the program that it ran takes its time."""
    program = ("import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('saved'),"
               " sys.exit())); print('ready', flush=True); time.sleep(1000)")
    process = keep(f'{sys.executable} -c "{program}"; true')
    log("ready")
    process.stdin.write(b"stop\n")
    process.stdin.flush()
    assert report(process) == {"returncode": -signal.SIGTERM, "stopped": True}
    assert "saved" in log()


def test_the_end_of_its_supervisor_is_a_stop(keep, log):
    process = keep("sh -c 'echo $$; echo ready; sleep 1000'; true")
    log("ready")
    process.stdin.close()
    assert report(process)["stopped"]
    assert ended(int(log().split()[0]))


def test_after_the_grace_time_the_rest_is_killed_wherever_it_went(keep, log):
    process = keep("trap '' TERM; (setsid sh -c 'echo $$; sleep 1000' &); sleep 0.1; echo ready; sleep 1000",
                   grace_s=0.1)
    log("ready")
    process.stdin.write(b"stop\n")
    process.stdin.flush()
    assert report(process) == {"returncode": -signal.SIGKILL, "stopped": True}
    assert ended(int(log().split()[0]))


def test_signals_to_the_keeper_do_not_end_it_and_are_not_ignored_by_the_entrypoint(keep, log, tmp_path):
    process = keep(f"echo ready; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; kill -TERM $$")
    log("ready")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(process.pid, number)
    (tmp_path / "go").touch()
    assert report(process) == {"returncode": -signal.SIGTERM, "stopped": False}


def test_what_cannot_start_is_an_error(keep):
    assert "null" in report(keep("echo \0"))["error"]
