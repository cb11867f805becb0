"""The command ray: its arguments become those of zray."""

from __future__ import annotations

import pytest

from zray.cli.ray_command import NotInZray, translated
from zray.node.running import session as sessions
from zray.node.running.session import NodeSession


def node(address: str, directory: str = "/s") -> NodeSession:
    return NodeSession(directory, b"n" * 8, "ab", "ipc://x", 1, 1, False, 1.0, cluster="c", join="zray://secret",
                       address=address)


@pytest.mark.parametrize(("given", "wanted"), [
    ("start --head", "start --head --port=6379"),
    ("start --head --port=0 --num-cpus 2 --block", "start --head --num-cpus 2 --block --port=0"),
    ("start --head --port 7000 --dashboard-host 0.0.0.0 --include-dashboard=true -v --disable-usage-stats",
     "start --head --include-dashboard=true --port=7000"),
    ("debug -v --address auto", "debug --address auto"),
    ("--logging-level debug start --head --node-ip-address 10.0.0.1", "start --head --port=6379 --host=10.0.0.1"),
    ("start --head --min-worker-port=100 --max-worker-port=200", "start --head --port=6379 --port-range=100-200"),
    ("start --address=@/file --num-gpus=1", "start --num-gpus=1 --address=@/file"),
    ("start --help", "start --help"),
    ("stop --force -g 10 -v", "stop --force"),
    ("status --address x -v", "status --address x"),
    ("list actors --filter state=ALIVE", "list actors --filter state=ALIVE"),
    ("", ""), ("--help", "--help"),
])
def test_arguments_are_translated(given, wanted):
    assert translated(given.split()) == wanted.split()


def test_labels_may_be_written_as_ray_does():
    assert translated(["start", "--head", "--labels", "zone=a, kind=b"])[-1] == '--labels={"zone": "a", "kind": "b"}'
    assert translated(["start", "--head", '--labels={"zone": "a"}'])[-1] == '--labels={"zone": "a"}'
    with pytest.raises(NotInZray, match="key=value"):
        translated(["start", "--labels=zone"])


def test_the_address_of_a_node_here_becomes_the_file_with_its_join_string(monkeypatch):
    monkeypatch.setattr(sessions, "live_sessions", lambda: [node("127.0.0.1:6379"), node("10.9.9.9:7000", "/t")])
    monkeypatch.setattr(sessions, "is_here", lambda host: host in ("127.0.0.1", "10.1.1.1"))
    for address in ("127.0.0.1:6379", "10.1.1.1:6379", "auto"):
        assert translated(["start", "--address", address]) == ["start", "--address=@/s/join"]
    assert translated(["start", "--address=10.9.9.9:7000"]) == ["start", "--address=@/t/join"]
    for address in ("10.2.2.2:6379", "10.1.1.1:7000"):
        with pytest.raises(NotInZray, match="no node of this user on this machine listens at .* join string"):
            translated(["start", "--address", address])


@pytest.mark.parametrize(("given", "words"), [
    ("up cluster.yaml", "`ray up` is not in zray"), ("start --port", "--port takes a value")])
def test_what_zray_lacks_says_so(given, words):
    with pytest.raises(NotInZray, match=words):
        translated(given.split())
