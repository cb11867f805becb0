"""Drivers that connect to a node which does not answer, or ends meanwhile."""

from __future__ import annotations

import glob
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.target import ray, until

pytestmark = pytest.mark.zray_only


def sockets(node):
    """Of drivers, in the session directory of the node."""
    return glob.glob(os.path.join(node.session_dir, "d-*.sock"))


def test_a_driver_gives_a_silent_node_up_and_leaves_no_socket(grow, monkeypatch):
    [node] = grow({"num_cpus": 1}, connect=None).list_all_nodes()
    monkeypatch.setenv("ZRAY_CONNECT_WAIT_S", "1")
    os.kill(node.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectionError, match="did not accept this driver: no answer within 1 s"):
            ray.init(address=node.session_dir)
        assert sockets(node) == []
    finally:
        os.kill(node.pid, signal.SIGCONT)


def test_a_driver_whose_node_ends_while_it_connects_says_so_at_once(grow, monkeypatch):
    cluster = grow({"num_cpus": 1}, connect=None)
    [node] = cluster.list_all_nodes()
    monkeypatch.setenv("ZRAY_CONNECT_WAIT_S", "50")
    os.kill(node.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(ray.init, address=node.session_dir)
        until(lambda: sockets(node), "the driver has its socket")
        os.kill(node.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError, match="did not accept this driver: its daemon has ended"):
            connecting.result(30)
    assert sockets(node) == []
    cluster.remove_node(node, allow_graceful=False)
