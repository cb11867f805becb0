"""The way back of a daemon that was declared dead, apart from the processes (tests/e2e/test_rejoin.py has those)."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict

import pytest

from zray.node.processes import linux
from zray.node.running import join_secret, launch, rejoining, session as sessions
from zray.node.running.options import parser
from zray.node.running.rejoining import JSON_OPTIONS, OPTIONS, Rejoin, RejoinFailed, next_attempt, reachable
from zray.transport.credentials import JoinString, encode_join


def join_of(port):
    return encode_join(JoinString("127.0.0.1", port, b"c" * 16, b"node", b"k" * 32, b"t" * 32, 2e9))


def state(*joins, left_s=60.0):
    return Rejoin("aa", "unheard of", list(joins), 60.0, time.monotonic() + left_s, True, False, 0, 1024)


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_state_reaches_the_next_program_by_a_descriptor():
    one = state("zray://a")
    assert Rejoin.read(join_secret.descriptor(json.dumps(asdict(one)))) == one
    assert "zray://a" not in repr(one), "it is a secret"


def test_the_first_node_that_can_be_reached_is_the_way_back(closed_port):
    with socket.create_server(("127.0.0.1", 0)) as server:
        good = join_of(server.getsockname()[1])
        assert reachable(state("nonsense", join_of(closed_port), good)) == good


def test_when_no_node_can_be_reached_in_time_the_error_names_the_reason_the_nodes_and_what_to_do(closed_port):
    with pytest.raises(RejoinFailed, match="unheard of.*within 60 s.*refused.*start it again") as raised:
        reachable(state(join_of(closed_port), left_s=0.0))
    assert f"127.0.0.1:{closed_port}" in str(raised.value)
    assert join_of(closed_port) not in str(raised.value), "and no secret"


def test_a_join_that_failed_is_tried_through_another_node_as_long_as_there_is_time(monkeypatch):
    monkeypatch.setattr(rejoining.time, "sleep", lambda seconds: None)
    assert next_attempt(state("a", "b", "c"), "a", "it refused").joins == ["b", "c", "a"]
    with pytest.raises(RejoinFailed, match="it refused"):
        next_attempt(state("a", left_s=0.5), "a", "it refused")


def test_the_new_daemon_gets_every_option_but_the_ways_into_a_cluster_and_the_pipes_of_a_starter():
    ours = {"session_dir", "head", "address", "new_cluster", "address_fd", "rejoin_fd", "fate_fd", "ready_fd"}
    assert {action.dest for action in parser()._actions} - {"help"} == {*OPTIONS, *JSON_OPTIONS, *ours}


def session(directory, **more):
    me = os.getpid()
    return sessions.NodeSession(str(directory), b"node\0\0\0\0", "aa", "ipc://x", me, linux.start_time(me), False, 0.0,
                                **more)


def test_a_client_waits_for_a_node_that_joins_again(tmp_path, monkeypatch):
    away = session(tmp_path, rejoins=True)
    (tmp_path / "node.json").write_text(away.to_json())
    back = session(tmp_path, name="back")
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: (tmp_path / "node.json").write_text(back.to_json()))
    assert launch.find_session(str(tmp_path)).session.name == "back"


def test_a_client_of_a_node_that_does_not_join_again_gets_an_error_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "node.json").write_text(session(tmp_path, rejoins=True).to_json())
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: (tmp_path / "node.json").unlink())
    with pytest.raises(ConnectionError, match="declared dead by its cluster, and has ended"):
        launch.find_session(str(tmp_path))
    (tmp_path / "node.json").write_text(session(tmp_path, rejoins=True).to_json())
    monkeypatch.setattr(launch, "START_TIMEOUT_S", -1.0)
    with pytest.raises(ConnectionError, match="has not joined it again"):
        launch.find_session(str(tmp_path))


def test_the_daemon_that_begins_again_may_use_the_directory_that_it_had(tmp_path):
    directory = tmp_path / "s"
    directory.mkdir()
    (directory / "node.json").write_text(session(directory, rejoins=True).to_json())
    assert sessions.create(str(directory)) == str(directory)
