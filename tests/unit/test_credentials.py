"""Allow-lists, tickets and join strings; the last part by real handshakes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.fakes.clock import FakeClock
from tests.fakes.mesh_net import MeshNet, say
from zray.base import ids
from zray.base.formats import JOIN_SCHEME
from zray.transport import curve
from zray.transport.credentials import (
    AllowList,
    BadJoinString,
    Credentials,
    JoinString,
    NotListed,
    Peers,
    decode_join,
    encode_join,
)
from zray.transport.mesh import Mesh

KEYS = [curve.new_keys() for _ in range(4)]
JOIN = JoinString("10.1.2.3", 6379, bytes(range(16)), b"node", KEYS[0].public, KEYS[1].secret, 2_000_000_000.0)


def incarnation(tag: str) -> bytes:
    return tag.encode().ljust(4, b"_") + bytes(4)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def peers(directory: Path) -> AllowList:
    return AllowList(str(directory / "peers"), FakeClock())


# ---------------------------------------------------------------- the allow-list


def test_a_reader_sees_every_change_at_its_next_question(peers: AllowList) -> None:
    reader = Peers(peers.path)
    for i in range(50):
        key = KEYS[i % 2].public
        peers.add_node(key, b"aaaa")
        assert reader.allowed(key) == peers.allowed(key) == "node:61616161"
        peers.remove_node(b"aaaa")
        assert reader.allowed(key) == peers.allowed(key) == ""


def test_a_daemon_that_starts_again_finds_its_list(peers: AllowList) -> None:
    peers.add_node(KEYS[0].public, b"aaaa")
    peers.add_ticket(KEYS[1].public, "t1", peers.clock() + 9, 2)
    again = AllowList(peers.path, peers.clock)
    assert again.entries() == peers.entries() and len(again.entries()) == 2


def test_a_key_and_a_tag_stand_for_one_node_each(peers: AllowList) -> None:
    peers.add_node(KEYS[0].public, b"aaaa")
    peers.add_node(KEYS[0].public, b"aaaa")
    for key, tag in ((KEYS[0].public, b"bbbb"), (KEYS[1].public, b"aaaa"), (b"short", b"cccc"), (KEYS[1].public, b"")):
        with pytest.raises(NotListed):
            peers.add_node(key, tag)
    assert len(peers.entries()) == 1


def test_a_node_speaks_for_its_own_processes_and_a_ticket_only_for_newcomers(peers: AllowList) -> None:
    peers.add_node(KEYS[0].public, b"aaaa")
    for who in (peers, Peers(peers.path)):
        assert who.admits(b"aaaa\0\0\0\x07", "node:61616161")
        assert not who.admits(b"bbbb\0\0\0\0", "node:61616161")
        assert who.admits(b"bbbb\0\0\0\0", "ticket:t1")
        assert not who.admits(b"aaaa\0\0\0\0", "ticket:t1")
        assert not who.admits(b"bbbb\0\0\0\0", "node:62626262"), "not listed, or no more"
        assert not who.admits(b"bbbb\0\0\0\0", "")


def test_a_ticket_opens_the_daemon_as_often_as_it_says_until_it_expires(peers: AllowList) -> None:
    clock = peers.clock
    assert isinstance(clock, FakeClock)
    once, twice, often = (keys.public for keys in KEYS[:3])
    peers.add_ticket(once, "t1", clock.now + 10, 1)
    peers.add_ticket(twice, "t2", clock.now + 10, 2)
    peers.add_ticket(often, "t3", clock.now + 10)
    assert Peers(peers.path).allowed(often) == "", "core processes are not introduced to newcomers"
    assert [peers.allowed(once) for _ in range(3)] == ["ticket:t1", "", ""]
    assert [peers.allowed(twice) for _ in range(3)] == ["ticket:t2", "ticket:t2", ""]
    assert AllowList(peers.path, clock).allowed(twice) == "", "also after a restart"
    assert [peers.allowed(often) for _ in range(9)] == ["ticket:t3"] * 9
    clock.now += 10
    assert peers.allowed(often) == ""


def test_a_revoked_ticket_opens_nothing_and_expired_ones_leave_the_list(peers: AllowList) -> None:
    clock = peers.clock
    assert isinstance(clock, FakeClock)
    peers.add_ticket(KEYS[0].public, "t1", clock.now + 10)
    peers.remove_ticket("t1")
    assert peers.allowed(KEYS[0].public) == ""
    for i in range(20):
        peers.add_ticket(KEYS[i % 4].public, f"t{i}", clock.now + 1)
        clock.now += 2
    assert len(peers.entries()) == 1
    for bad in ((KEYS[0].public, "a b", 1.0, 0), (KEYS[0].public, "", 1.0, 0), (b"", "a", 1.0, 0),
                (KEYS[0].public, "a", 1.0, -1)):
        with pytest.raises(NotListed):
            peers.add_ticket(*bad)


@pytest.mark.parametrize("harm", [
    "x\n", f"{KEYS[0].public.hex()} 61616161 node:62626262\n", f"{KEYS[0].public.hex()} - node:61616161\n",
    f"{KEYS[0].public.hex()} - ticket:x 5\n", f"{KEYS[0].public.hex()[:-2]} 61616161 node:61616161\n", "mode", "gone",
], ids=["text", "other node", "node without id", "no number", "short key", "mode", "gone"])
def test_a_damaged_list_lets_nobody_in(peers: AllowList, harm: str) -> None:
    peers.add_node(KEYS[0].public, b"aaaa")
    if harm == "mode":
        os.chmod(peers.path, 0o644)
    elif harm == "gone":
        os.unlink(peers.path)
    else:
        with open(peers.path, "w", encoding="ascii") as file:
            file.write(harm)
    with pytest.raises(curve.BadKeyFile):
        Peers(peers.path).allowed(KEYS[0].public)


# ---------------------------------------------------------------- join strings


@given(st.sampled_from(["10.0.0.1", "::1", "head-0.example.org"]), st.integers(1, 65535),
       st.binary(min_size=16, max_size=16), st.integers(0, 2**40), st.text(" \t\n\r", max_size=3), st.integers(0, 200))
def test_join_strings_are_read_as_they_were_written(host: str, port: int, cluster: bytes, expires: int, blank: str,
                                                    at: int) -> None:
    join = JoinString(host, port, cluster, b"node", KEYS[0].public, KEYS[1].secret, float(expires))
    text = encode_join(join)
    assert text.startswith(JOIN_SCHEME) and not set(text) & set(" \n'\"$&|;<>()*?#~`\\!{}")
    assert decode_join(text[:at] + blank + text[at:]) == join
    assert decode_join(text).keys() == KEYS[1]


@settings(max_examples=300)
@given(st.integers(0, 500), st.characters(codec="ascii"))
def test_a_join_string_with_one_wrong_character_is_refused(at: int, wrong: str) -> None:
    text = encode_join(JOIN)
    at %= len(text)
    changed = text[:at] + wrong + text[at + 1:]
    if "".join(changed.split()) != text:
        with pytest.raises(BadJoinString):
            decode_join(changed)


@pytest.mark.parametrize("length", range(0, len(encode_join(JOIN)), 7))
def test_a_join_string_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(BadJoinString):
        decode_join(encode_join(JOIN)[:length])


@pytest.mark.parametrize(("text", "why"), [
    ("", "is empty"), ("10.0.0.1:6379", "without keys"), ("/tmp/zray/join", "is a path"), ("auto", "not a join string"),
    ("tcp://10.0.0.1:6379", "another kind"), (JOIN_SCHEME, "address"), (f"{JOIN_SCHEME}10.0.0.1/AAAA", "address"),
    (f"{JOIN_SCHEME}10.0.0.1:6379", "cut off"), (f"{JOIN_SCHEME}10.0.0.1:6379/AAAA", "cut off"),
    (f"{JOIN_SCHEME}10.0.0.1:6379/" + "Ag" * 100, "another version"), (encode_join(JOIN) + "A", "damaged"),
    (encode_join(JOIN).replace("10.1.2.3", "10.1.2.4"), "damaged"),
    (f"{JOIN_SCHEME}10.0.0.1:6379/" + "\u00e9" * 200, "damaged"),
])
def test_what_is_no_join_string_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(BadJoinString, match=why) as caught:
        decode_join(text)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


def test_an_expired_join_string_is_tried_with_a_warning_because_this_clock_may_be_wrong() -> None:
    assert decode_join(encode_join(JOIN)).warning(JOIN.expires - 1) == ""
    assert "expired" in JOIN.warning(JOIN.expires + 60) and "has expired" in JOIN.refusal(JOIN.expires + 60)
    assert "revoked" in JOIN.refusal(JOIN.expires - 60)
    assert KEYS[1].secret.hex() not in repr(JOIN) and str(KEYS[1].secret) not in repr(JOIN)


# ---------------------------------------------------------------- a node's directory


def test_all_that_a_node_keeps_is_private_and_its_processes_find_it(directory: Path) -> None:
    daemon = Credentials.create(str(directory), incarnation("a"))
    daemon.mint("127.0.0.1", 1)
    worker = Credentials.load(str(directory))
    assert (worker.cluster, worker.keys) == (daemon.cluster, daemon.keys)
    assert worker.peers.allowed(daemon.keys.public) == "node:" + b"a___".hex()
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    again = Credentials.create(str(directory), incarnation("a"), daemon.cluster)
    assert again.keys == daemon.keys and len(again.peers.entries()) == 2
    with pytest.raises(ValueError, match="another cluster"):
        Credentials.create(str(directory), incarnation("a"), bytes(16))


@pytest.mark.parametrize("name", ["cluster", "node.key", "peers"])
def test_a_directory_with_a_missing_or_open_file_is_refused(directory: Path, name: str) -> None:
    Credentials.create(str(directory), incarnation("a"))
    (directory / name).chmod(0o604)
    with pytest.raises(curve.BadKeyFile, match=name):
        Credentials.load(str(directory)).peers.allowed(bytes(32))
    (directory / name).unlink()
    with pytest.raises(curve.BadKeyFile, match=name):
        Credentials.load(str(directory)).peers.allowed(bytes(32))


# ---------------------------------------------------------------- by real handshakes


class Nodes(MeshNet):
    """Daemons of clusters, each with a session directory."""

    def daemon(self, name: str, cluster: bytes = b"", clock: Any = None) -> tuple[Mesh, Credentials]:
        session_dir = self.directory / name
        session_dir.mkdir(mode=0o700)
        node = incarnation(name)
        credentials = Credentials.create(str(session_dir), node, cluster, *([clock] if clock else []))
        mesh = self.mesh(bind=False, node=node)
        credentials.equip(mesh)
        mesh.serve_tcp()
        return mesh, credentials

    def newcomer(self, join: str, node: bytes = b"") -> tuple[Mesh, JoinString]:
        decoded = decode_join(join)
        mesh = self.mesh(bind=False, node=node)
        mesh.keys = decoded.keys()
        return mesh, decoded

    def refused(self, dialler: Mesh, peer: bytes) -> None:
        self.until(lambda: (dialler.incarnation, peer) in self.closed)
        assert dialler.counters["failed_handshakes"] == 1


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    for mesh in nodes.meshes:
        mesh.check()
        mesh.close()
    assert not nodes.errors


def mint(mesh: Mesh, credentials: Credentials, **options: Any) -> str:
    address = curve.parse_endpoint(mesh.serve_tcp()).address
    return credentials.mint(*curve.split_host_port(address.removeprefix("tcp://")), **options)


def test_a_newcomer_comes_in_by_ticket_and_is_then_known_by_its_own_key(nodes: Nodes) -> None:
    head, credentials = nodes.daemon("head")
    guest, join = nodes.newcomer(mint(head, credentials))
    guest.connect(head.incarnation, join.endpoint)
    say(guest, head, "may I join?")
    nodes.until(lambda: nodes.reasons(head) == ["may I join?"])
    assert head.principal(guest.incarnation).startswith("ticket:")
    own = curve.new_keys()
    assert isinstance(credentials.peers, AllowList)
    credentials.peers.add_node(own.public, guest.incarnation[:ids.TAG_SIZE])
    guest.disconnect(head.incarnation)
    guest.keys = own
    guest.connect(head.incarnation, join.endpoint)
    say(guest, head, "as myself")
    nodes.until(lambda: nodes.reasons(head) == ["may I join?", "as myself"])
    assert head.principal(guest.incarnation) == "node:" + guest.incarnation[:ids.TAG_SIZE].hex()


@pytest.mark.parametrize("why", ["replayed", "expired", "revoked", "other cluster"])
def test_a_ticket_that_is_not_good_any_more_is_refused_in_the_handshake(nodes: Nodes, why: str) -> None:
    clock = FakeClock()
    head, credentials = nodes.daemon("head", clock=clock)
    text = mint(head, credentials, uses=1, valid_s=600)
    if why == "replayed":
        first, join = nodes.newcomer(text)
        first.connect(head.incarnation, join.endpoint)
        say(first, head, "hello")
        nodes.until(lambda: nodes.reasons(head) == ["hello"])
    elif why == "expired":
        clock.now += 600
    elif why == "revoked":
        assert isinstance(credentials.peers, AllowList)
        ticket = next(entry for entry in credentials.peers.entries() if not entry.tag)
        credentials.peers.remove_ticket(ticket.principal.removeprefix("ticket:"))
    else:
        other, _ = nodes.daemon("othr")
        head = other
    guest, join = nodes.newcomer(text)
    endpoint = head.serve_tcp() if why == "other cluster" else join.endpoint
    heard = len(nodes.heard[head.incarnation])
    guest.connect(head.incarnation, endpoint)
    say(guest, head, "let me in")
    nodes.refused(guest, head.incarnation)
    assert len(nodes.heard[head.incarnation]) == heard


def test_a_clock_that_is_minutes_wrong_does_not_matter_to_a_fresh_ticket(nodes: Nodes) -> None:
    clock = FakeClock()
    head, credentials = nodes.daemon("head", clock=clock)
    guest, join = nodes.newcomer(mint(head, credentials))
    for skew in (-600, 600):
        assert join.warning(clock.now + skew) == ""
    clock.now += 600
    guest.connect(head.incarnation, join.endpoint)
    say(guest, head, "hello")
    nodes.until(lambda: nodes.reasons(head) == ["hello"])


def test_a_newcomer_cannot_speak_as_a_listed_node(nodes: Nodes) -> None:
    head, credentials = nodes.daemon("head")
    assert isinstance(credentials.peers, AllowList)
    credentials.peers.add_node(KEYS[0].public, b"list")
    guest, join = nodes.newcomer(mint(head, credentials), node=b"list\0\0\0\0")
    guest.connect(head.incarnation, join.endpoint)
    say(guest, head, "I am the node list")
    nodes.until(lambda: head.counters["not_admitted"] > 0)
    assert not head.peers()


def test_two_clusters_on_one_machine_do_not_let_each_other_in(nodes: Nodes) -> None:
    (one, _), (other, _) = nodes.daemon("one"), nodes.daemon("two")
    one.connect(other.incarnation, other.serve_tcp())
    other.connect(one.incarnation, one.serve_tcp())
    nodes.refused(one, other.incarnation)
    nodes.refused(other, one.incarnation)


def test_nodes_that_list_each_other_talk_until_one_is_removed(nodes: Nodes) -> None:
    head, first = nodes.daemon("head")
    node, second = nodes.daemon("node", first.cluster)
    assert isinstance(first.peers, AllowList) and isinstance(second.peers, AllowList)
    first.peers.add_node(second.keys.public, node.incarnation[:4])
    second.peers.add_node(first.keys.public, head.incarnation[:4])
    head.connect(node.incarnation, node.serve_tcp())
    node.connect(head.incarnation, head.serve_tcp())
    say(head, node, "hello")
    say(node, head, "hello")
    nodes.until(lambda: nodes.reasons(head) == nodes.reasons(node) == ["hello"])
    first.peers.remove_node(node.incarnation[:4])
    head.refuse(node.incarnation[:4])
    say(node, head, "still here?")
    nodes.until(lambda: head.counters["not_admitted"] + head.counters["refused"] > 0)
    assert (head.incarnation, node.incarnation) in nodes.closed and nodes.reasons(head) == ["hello"]
    nodes.until(lambda: (node.incarnation, head.incarnation) in nodes.closed)
    nodes.closed.clear()
    node.disconnect(head.incarnation)
    node.connect(head.incarnation, head.serve_tcp())
    nodes.refused(node, head.incarnation)
