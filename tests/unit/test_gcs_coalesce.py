"""Messages to a neighbour in the chain within a turn become one, with the same contents."""

from __future__ import annotations

from hypothesis import given, strategies as st

from zray.gcs.replica.coalesce import Coalescer
from zray.wire.messages import ChainAck, ChainUpdates

PEERS = st.sampled_from([b"a" * 8, b"b" * 8])
SMALL = st.integers(0, 3)
UPDATES = st.builds(lambda epoch, first, n, ahead, shard: ChainUpdates(
    epoch, first, [[b"c" * 8, first + i, 1, []] for i in range(n)], first + n - 1 + ahead, shard), SMALL,
    st.integers(1, 12), st.integers(0, 4), SMALL, st.integers(0, 1))
ACKS = st.builds(ChainAck, SMALL, st.integers(0, 9), st.integers(0, 9), st.booleans(), st.integers(0, 1))


def entries(messages):
    """Every update that is sent, with its number, epoch, shard and addressee, in order."""
    return [(peer, m.shard, m.epoch, m.first + i, entry) for peer, m in messages if type(m) is ChainUpdates
            for i, entry in enumerate(m.entries)]


@given(st.lists(st.tuples(PEERS, UPDATES | ACKS), max_size=20))
def test_nothing_is_lost_added_or_reordered_towards_one_peer(messages):
    coalescer = Coalescer()
    for peer, message in messages:
        coalescer.add(peer, message)
    out = coalescer.take()
    assert not coalescer and coalescer.take() == []
    for peer in {peer for peer, _ in messages}:
        for shard in (0, 1):
            mine = [[(p, m) for p, m in some if p == peer and m.shard == shard] for some in (messages, out)]
            assert entries(mine[0]) == entries(mine[1])
            acks = [[m for _, m in some if type(m) is ChainAck] for some in mine]
            for epoch in range(4):
                said, kept = ([m for m in some if m.epoch == epoch] for some in acks)
                assert max((m.received for m in said), default=-1) == max((m.received for m in kept), default=-1)
                assert max((m.committed for m in said), default=-1) == max((m.committed for m in kept), default=-1)
                assert any(m.sync for m in said) == any(m.sync for m in kept)


def test_a_run_of_updates_becomes_one_message_and_of_acknowledgements_the_last_is_sent():
    coalescer, peer = Coalescer(), b"p" * 8
    for n in (5, 6):
        coalescer.add(peer, ChainUpdates(1, n, [[b"c", n, 1, []]], n))
    coalescer.add(peer, ChainUpdates(1, 7, [[b"c", 7, 1, []], [b"c", 8, 1, []]], 9))
    coalescer.add(peer, ChainAck(1, 5, 4, True))
    coalescer.add(peer, ChainAck(1, 8, 7))
    updates, ack = (message for _, message in coalescer.take())
    assert (updates.first, len(updates.entries), updates.last) == (5, 4, 9)
    assert ack == ChainAck(1, 8, 7, True)


def test_epochs_gaps_and_repeats_stay_apart():
    coalescer, peer = Coalescer(), b"p" * 8
    messages = [ChainUpdates(1, 5, [[b"c", 5, 1, []]], 5), ChainUpdates(1, 7, [[b"c", 7, 1, []]], 7),
                ChainUpdates(2, 8, [[b"c", 8, 1, []]], 8), ChainUpdates(2, 8, [[b"c", 8, 1, []]], 8)]
    for message in messages:
        coalescer.add(peer, message)
    assert [message for _, message in coalescer.take()] == messages
