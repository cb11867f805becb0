"""The state table of a peer's life (zray.transport.peers), row by row, and each verb on a record."""

from __future__ import annotations

import pytest

from zray.transport.peers import TRANSITIONS, Dialled, PeerEvent, PeerState, PeerTable
from zray.transport.session import EPOCH_SHIFT, Session

PEER, HOP, NODE = b"aaaa\0\0\0\1", b"bbbb\0\0\0\0", b"aaaa"


@pytest.fixture
def peers():
    peers = PeerTable(ended_max=2)
    yield peers
    peers.check()


def connection() -> Dialled:
    return Dialled("ipc://here", "ipc://here", PEER + b"\0\0\0\1")


def heard(epoch: int) -> Session:
    session = Session(7)
    session.receive((epoch << EPOCH_SHIFT) + 1, b"frame")
    return session


def test_every_event_has_a_row_and_every_state_but_new_is_reached():
    assert TRANSITIONS.keys() == set(PeerEvent)
    assert {after for row in TRANSITIONS.values() for after in row.values()} == set(PeerState) - {PeerState.NEW}


def test_a_connection_that_we_make_opens_a_peer_whatever_it_was():
    assert TRANSITIONS[PeerEvent.DIALLED] == dict.fromkeys(PeerState, PeerState.OPEN)
    assert TRANSITIONS[PeerEvent.ROUTED] == dict.fromkeys(PeerState, PeerState.OPEN)


def test_a_frame_of_the_peer_ends_neither_its_closing_nor_its_end():
    row = TRANSITIONS[PeerEvent.CAME]
    assert row[PeerState.CLOSING] is PeerState.CLOSING and row[PeerState.ENDED] is PeerState.ENDED
    assert {row[before] for before in set(PeerState) - {PeerState.CLOSING, PeerState.ENDED}} == {PeerState.OPEN}


def test_a_peer_that_nobody_knows_has_no_record(peers):
    assert peers.state(PEER) is PeerState.NEW and not peers.is_connected(PEER) and peers.session(PEER) is None
    assert peers.forget(PEER) is None and not peers.records


def test_a_dialled_peer_without_a_session_leaves_nothing_behind(peers):
    peers.dialled(PEER, connection())
    assert peers.state(PEER) is PeerState.OPEN and peers.is_connected(PEER) and peers.is_dialled(PEER)
    peers.hung_up(PEER)
    assert peers.state(PEER) is PeerState.NEW and not peers.records


def test_a_session_waits_apart_for_the_next_way(peers):
    peers.dialled(PEER, connection())
    peers.begin(PEER, Session(1))
    peers.hung_up(PEER)
    assert peers.state(PEER) is PeerState.APART and not peers.is_connected(PEER)
    peers.came(PEER, b"route")
    assert peers.state(PEER) is PeerState.OPEN


def test_one_way_less_is_no_parting_while_another_is_left(peers):
    peers.dialled(PEER, connection())
    peers.came(PEER, b"route")
    peers.hung_up(PEER)
    assert peers.state(PEER) is PeerState.OPEN
    peers.drop_ipc(PEER)
    assert peers.state(PEER) is PeerState.NEW


def test_a_lost_peer_closes_once_and_is_not_connected_meanwhile(peers):
    peers.came(PEER, b"route")
    peers.lose(PEER, 5.0)
    peers.lose(PEER, 9.0)
    assert peers.state(PEER) is PeerState.CLOSING and peers.closing[PEER].close_at == 5.0
    assert not peers.is_connected(PEER)
    peers.came(PEER, b"another")
    assert peers.state(PEER) is PeerState.CLOSING
    peers.dialled(PEER, connection())
    assert peers.state(PEER) is PeerState.OPEN and not peers.closing


def test_a_lasting_peer_that_closed_keeps_its_session_and_no_way(peers):
    peers.routed(PEER, HOP)
    session = Session(1)
    peers.begin(PEER, session)
    peers.lose(PEER, 5.0)
    peers.keep(PEER)
    assert peers.state(PEER) is PeerState.APART and peers.session(PEER) is session and not peers.hops


def test_messages_for_a_held_peer_wait_in_its_record(peers):
    peers.hold(PEER, [1, "one"])
    assert peers.state(PEER) is PeerState.HELD and peers.is_connected(PEER)
    record = peers.came(PEER, b"route")
    assert record.state is PeerState.OPEN and record.held == [1, "one"]
    record.held = None  # the mesh sends them


def test_a_peer_that_is_open_cannot_be_held(peers):
    peers.dialled(PEER, connection())
    with pytest.raises(KeyError):
        peers.hold(PEER, [])
    peers.records[PEER].held = None


def test_what_ended_is_an_epoch_only_and_a_frame_alone_does_not_revive_it(peers):
    peers.came(PEER, b"route")
    peers.begin(PEER, heard(epoch=3))
    peers.forget(PEER)
    assert peers.state(PEER) is PeerState.ENDED and peers.ended == {PEER: 3} and not peers.records
    record = peers.came(PEER, b"route")
    assert record.state is PeerState.ENDED and peers.has_ended(PEER, record)
    peers.drop_ipc(PEER)
    assert not peers.records and peers.state(PEER) is PeerState.ENDED


@pytest.mark.parametrize("how", ["dialled", "routed", "relayed", "session"])
def test_what_ended_comes_back_by_a_way_that_we_chose_or_by_a_session(peers, how):
    peers.begin(PEER, heard(epoch=3))
    peers.forget(PEER)
    peers.came(PEER, b"route") if how == "session" else None
    record = {"dialled": lambda: peers.dialled(PEER, connection()), "routed": lambda: peers.routed(PEER, HOP),
              "relayed": lambda: peers.relayed(PEER, HOP), "session": lambda: peers.begin(PEER, Session(2))}[how]()
    assert record.state is PeerState.OPEN and not peers.has_ended(PEER, record)
    assert (PEER in peers.ended) == (how != "session")  # the next session learns which epochs it must not wait for


def test_only_so_many_ends_are_remembered(peers):
    for number in range(4):
        name = b"aaaa\0\0\0" + bytes([number])
        peers.begin(name, heard(epoch=1))
        peers.forget(name)
    assert list(peers.ended) == [b"aaaa\0\0\0\2", b"aaaa\0\0\0\3"]


def test_a_relay_is_the_way_only_where_there_is_no_other(peers):
    peers.came(PEER, b"route")
    assert not peers.relayed(PEER, HOP).hop
    peers.drop_ipc(PEER)
    assert peers.relayed(PEER, HOP).hop == HOP and peers.behind(HOP) == [PEER] and peers.hop(PEER) == HOP
    peers.dialled(PEER, connection())
    assert not peers.hops and not peers.behind(HOP)


def test_processes_of_a_refused_node_are_refused_by_their_tag(peers):
    assert not peers.is_refused(PEER)
    peers.refused.add(NODE)
    assert peers.is_refused(PEER) and not peers.is_refused(HOP)
