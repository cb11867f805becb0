"""The zygote's own errors: they cost the workers that it forks just then, and no others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest

from zray.node.processes.zygote import Zygote, ZygoteLink


@pytest.fixture
def worker():
    """A process with a group of its own, as a worker has."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def zygote(worker):
    ours, theirs = socket.socketpair()
    made = Zygote(theirs, os.getpid(), 1024)
    made.workers = {worker.pid}
    made.link = ZygoteLink(ours, os.getpid())
    yield made
    ours.close()
    theirs.close()


def killed(specs, write):
    os.write(write, b"half a report")
    os.kill(os.getpid(), signal.SIGKILL)


def fails(specs, write):
    raise BrokenPipeError


@pytest.mark.parametrize("between", [killed, fails])
def test_an_intermediate_process_that_ends_early_costs_only_the_workers_that_it_was_to_fork(zygote, worker, between):
    zygote._between = between
    zygote.spawn([{"worker_id": b"w" * 28}, {"worker_id": b"x" * 28}])
    assert zygote.link.read() == [(name * 28, 0, "the process that forks workers was killed") for name in (b"w", b"x")]
    assert worker.poll() is None and zygote.workers == {worker.pid}


def test_a_zygote_that_fails_leaves_the_workers_alone(zygote, worker, monkeypatch):
    monkeypatch.setattr(zygote, "prepare", lambda: None)
    zygote.link.send({"spawn": [{}]})  # a spec without an id
    zygote._between = killed
    with pytest.raises(KeyError):
        zygote.serve()
    assert worker.poll() is None


def test_the_end_of_the_daemon_ends_the_groups_of_the_workers(zygote, worker, monkeypatch):
    monkeypatch.setattr(zygote, "prepare", lambda: None)
    zygote.link.close()
    zygote.serve()
    assert worker.wait(30) == -signal.SIGKILL
