"""Several shards: where keys lie, how chains spread over nodes, lists and watches that take all shards."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from tests.fakes.gcs_ports import gcs_ports
from zray.base.ids import TAG_SIZE
from zray.gcs.client.client import GcsClient, merged
from zray.gcs.client.sharding import SHARDS, SPREAD, shard_of, shards_of
from zray.gcs.configuration.config import ClusterConfig, majority
from zray.gcs.configuration.decider import REPLICAS, ProposerView, next_config, next_voters
from zray.gcs.replica import tables
from zray.gcs.replica.tables import LIST
from zray.gcs.service import GcsService
from zray.wire.messages import ConfigIs, GcsEvents, GcsRedirect, GcsReply, GcsUnwatch

ME = b"\x01" * 8


# ---------------------------------------------------------------- keys

@given(st.sampled_from(sorted(tables.VALUE_BYTES_MAX)), st.binary(max_size=20), st.integers(0, 25))
def test_a_key_is_in_one_of_the_shards_that_any_prefix_of_it_names(table, rest, length):
    key = table + rest
    assert shard_of(key, SHARDS) in shards_of(key[:length], SHARDS)
    assert shard_of(key, SHARDS) == shard_of(key, SHARDS) and shard_of(key, 1) == 0


def test_tables_that_grow_are_spread_evenly_and_the_others_stay_together():
    for table in tables.VALUE_BYTES_MAX:
        found = Counter(shard_of(table + Random(i).randbytes(16), SHARDS) for i in range(800))
        assert found.keys() == (set(range(SHARDS)) if table in SPREAD else {0})
        assert min(found.values()) > 50
    assert [shard_of(b"kv/\x00\x00k%d" % i, 8) for i in range(5)] == [0, 6, 4, 2, 1], "the same in every version"


def test_a_configuration_with_another_number_of_shards_is_no_news():
    service = GcsService(gcs_ports(send=print), incarnation=ME)
    for shards in (1, SHARDS + 1):
        service.receive(b"\x02" * 4 + bytes(4), ConfigIs(ClusterConfig.first(ME, shards)._replace(generation=9).pack()))
    assert service.config.generation == 1 and service.control.counters["malformed"] == 2
    assert service.client.kv_put(b"k", b"v").done


# ---------------------------------------------------------------- the decider

def nodes(number: int) -> list[bytes]:
    return [b"n%02d" % i for i in range(number)]


def settled(config: ClusterConfig, living: list[bytes], gone: frozenset[bytes] = frozenset()) -> tuple:
    """Decide until nothing is left to decide, every replica catching up at once: (config, steps)."""
    for step in range(40):
        view = ProposerView(
            living=len(living), usable={name: i for i, name in enumerate(living)}, failed=gone, dead=gone,
            leaving=frozenset(), freed=gone,
            established=frozenset((shard, name) for shard, chain in enumerate(config.chains)
                                  for name in chain.members if name not in gone),
            caught_up=frozenset((shard, chain.epoch) for shard, chain in enumerate(config.chains)))
        value = next_config(config, view)
        if value is None:
            return config, step
        assert config.may_become(value), "one voter comes or goes at a time"
        for before, chain in zip(config.chains, value.chains, strict=True):
            assert chain.members and len(set(chain.members)) == len(chain.members) <= REPLICAS + 1
            assert gone or len(chain.members) >= min(2, len(before.members)), "a move never leaves one alone"
        config = value
    pytest.fail("the decider never ends")


def loads(config: ClusterConfig, *, of) -> list[int]:
    return sorted(Counter(name for chain in config.chains for name in of(chain)).values())


def test_up_to_three_nodes_hold_everything_and_heads_and_tails_are_on_all_of_them():
    config = ClusterConfig.first(b"n00", SHARDS)
    for number in (1, 2, 3):
        config, _ = settled(config, nodes(number))
        assert all(set(chain.members) == set(nodes(number)) for chain in config.chains)
    assert loads(config, of=lambda c: [c.head]) == loads(config, of=lambda c: [c.tail]) == [2, 3, 3]


def test_as_a_cluster_grows_its_nodes_hold_less_and_equally_much():
    config = ClusterConfig.first(b"n00", SHARDS)
    for number in range(1, 30):
        config, steps = settled(config, nodes(number))
        held = loads(config, of=lambda c: c.members)
        assert steps <= 8, "of all chains at once (two for the voters), not of one after the other"
        assert sum(held) == SHARDS * min(number, REPLICAS) and max(held) - min(held) <= 1
        if number > 3:
            assert max(held) <= -(-SHARDS * REPLICAS // number)
            assert len(loads(config, of=lambda c: [c.tail])) >= min(number, SHARDS) // 2


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.data())
def test_any_number_of_losses_one_by_one_leaves_balanced_whole_chains(number, data):
    config, _ = settled(ClusterConfig.first(b"n00", SHARDS), nodes(1))
    living = nodes(number)
    config, _ = settled(config, living)
    while len(living) > 1:
        lost = data.draw(st.sampled_from(living))
        living.remove(lost)
        if set(config.voters) == {lost}:
            return
        config, _ = settled(config, living, frozenset((lost,)))
        held = loads(config, of=lambda c: c.members)
        assert lost not in config.involved
        assert all(len(chain.members) == min(REPLICAS, len(living)) for chain in config.chains)
        assert max(held) - min(held) <= 1


@pytest.mark.parametrize(("silent", "briefly", "living", "stay"), [
    ("c", "c", 5, "ab"),      # two stay
    ("bc", "bc", 4, "abc"),   # one would: they wait for one another
    ("bc", "c", 4, "ac"),     # b has been silent for the node time-out; c waits
    ("bc", "", 4, "a"),       # both have
    ("b", "b", 1, "a"),       # of a cluster of two nodes: nothing else is there
])
def test_members_that_are_silent_for_a_moment_leave_as_long_as_two_stay(silent, briefly, living, stay):
    """A machine that is overloaded makes several silent at once; a chain of one is lost with the next node."""
    def names(text: str) -> frozenset[bytes]:
        return frozenset(name.encode() for name in text)

    members = "ab" if living == 1 else "abc"
    config = ClusterConfig.first(b"a", 1)
    config = config._replace(chains=(config.chains[0]._replace(
        members=tuple(name.encode() for name in members), since=(1,) * len(members)),))
    usable = sorted(names(members) - names(silent))
    view = ProposerView(living=living, usable={name: i for i, name in enumerate(usable)}, failed=names(silent),
                        dead=frozenset(), leaving=frozenset(), freed=frozenset(),
                        established=frozenset((0, name) for name in names(members)), caught_up=frozenset(),
                        briefly=names(briefly))
    value = next_config(config, view)
    found = (config if value is None else value).chains[0].members
    assert found == tuple(name.encode() for name in stay)


def view_of(usable: str, *, failed: str = "", dead: str = "", leaving: str = "") -> ProposerView:
    names = [name.encode() for name in usable]
    return ProposerView(living=len(names), usable={name: i for i, name in enumerate(names)},
                failed=frozenset(name.encode() for name in failed + dead),
                dead=frozenset(name.encode() for name in dead + leaving),
                leaving=frozenset(name.encode() for name in leaving), freed=frozenset(),
                established=frozenset(), caught_up=frozenset())


def voters_on_the_way(voters: str, view: ProposerView) -> list[str]:
    names = tuple(name.encode() for name in voters)
    way = [voters]
    while (step := next_voters(names, view)) != names:
        way.append(b"".join(step).decode())
        names = step
    return way


@pytest.mark.parametrize(("view", "way"), [
    (view_of("abc"), ["a", "ab", "abc"]),
    (view_of("abcde"), ["abc", "abcd", "abcde"]),
    (view_of("abd", dead="c"), ["abc", "ab", "abd"]),
    (view_of("abcfg", dead="de"), ["abcde", "abcd", "abc", "abcf", "abcfg"]),
    (view_of("abd", failed="c"), ["abc", "ab", "abd"]),
    (view_of("abd", leaving="c"), ["abc", "abcd", "abd"]),
    (view_of("ab", dead="c"), ["abc", "ab", "a"]),
    (view_of("ab", leaving="c"), ["abc", "ab", "a"]),
    (view_of("b", leaving="a"), ["a", "ab", "b"]),
    (view_of("ab", failed="c"), ["abc"]),
])
def test_voters_come_and_go_one_by_one_and_can_decide_at_every_step(view, way):
    assert voters_on_the_way(way[0], view) == way


@given(st.integers(1, 6))
def test_two_majorities_have_a_voter_in_common_and_one_more_voter_never_makes_it_harder(many):
    voters = tuple(b"%d" % i for i in range(many))
    sets = [{voter for i, voter in enumerate(voters) if mask >> i & 1} for mask in range(1 << many)]
    enough = [chosen for chosen in sets if majority(voters, chosen)]
    assert all(one & other for one in enough for other in enough)
    assert all(majority(voters, set(voters) - chosen) != majority(voters, chosen) for chosen in sets)
    if many % 2:
        assert all(majority((*voters, b"new"), chosen) for chosen in enough if voters[0] in chosen)


@settings(max_examples=300, deadline=None)
@given(st.permutations("abcdefg"), st.integers(1, 5), st.data())
def test_whatever_is_known_of_the_nodes_the_voters_settle(names, many, data):
    states = {name: data.draw(st.sampled_from(["usable", "usable", "failed", "dead", "leaving"])) for name in names}
    view = view_of(*("".join(sorted(n for n in names if states[n] == s)) for s in ("usable",)),
                   **{s: "".join(n for n in names if states[n] == s) for s in ("failed", "dead", "leaving")})
    way = voters_on_the_way("".join(names[:many]), view)
    assert len(way) <= 9
    for before, after in zip(way, way[1:], strict=False):
        assert len(set(before) ^ set(after)) == 1
        assert majority(tuple(after), [name for name in after if states[name] in ("usable", "leaving")])


# ---------------------------------------------------------------- lists

rows = st.lists(st.binary(min_size=1, max_size=3), max_size=30, unique=True).map(sorted)


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(1, 12), st.integers(1, 5))
def test_pages_of_several_shards_merged_are_the_pages_of_one(keys, limit, shards):
    """Whatever the limit, page after page gives every key once and in order."""
    stores = [tables.Tables() for _ in range(shards)]
    for sequence, key in enumerate(keys, start=1):
        stores[shard_of(b"kv/" + key, shards)].apply([tables.PUT, b"kv/" + key, b"v"], sequence)
    got: list[bytes] = []
    more, after = True, b""
    while more:
        pages = [store.read([LIST, b"kv/", after, limit // shards + 1, False]) for store in stores]
        found, more = merged(pages, limit)
        assert len(found) <= limit and (found or not more)
        got += [key for key, _, _ in found]
        after = got[-1] if got else b""
    assert got == [b"kv/" + key for key in keys]


def test_a_process_lists_all_shards_through_its_node():
    answers: list = []
    service = GcsService(gcs_ports(send=lambda peer, message: answers.append(message)), incarnation=ME[:4] + bytes(4))
    client = GcsClient(ME, lambda peer, message: service.receive(ME, message), [service.incarnation])
    for i in range(50):
        service.client.kv_put(b"%02d" % i, b"v")
    whole = client.kv_list()
    page = client._issue([LIST, tables.KV, b"", 7, True], b"", None)
    there, absent = client.kv_exists(b"17"), client.kv_exists(b"1")
    assert ME[:TAG_SIZE] == service.incarnation[:TAG_SIZE]
    for message in answers:
        client.on_message(service.incarnation, message)
    assert whole.result() == [b"%02d" % i for i in range(50)]
    assert len(page.result()[0]) <= 7 and page.result()[1] is True
    assert there.result() and not absent.result()


def test_the_numbers_of_requests_count_for_one_shard():
    sent: list = []
    client = GcsClient(ME, lambda peer, message: sent.append(message), [b"n"], shards=4)
    for i in range(40):
        client.put(b"kv/%d" % i, b"v")
    for shard in range(4):
        numbers = [message.number for message in sent if message.shard == shard]
        assert numbers == list(range(1, len(numbers) + 1)) and numbers
    client.on_message(b"n", GcsRedirect(1, 2, [b"m"], 3))
    assert [requests.members for requests in client.shards] == [(b"n",)] * 3 + [(b"m",)]
    for message in [message for message in sent if message.shard == 3]:
        client.on_message(b"m", GcsReply(message.number, "", [False, 1], 3))
    assert not client.shards[3].open and len(client.open_calls()) == sum(len(s.open) for s in client.shards[:3])
    client.on_message(b"m", GcsReply(1, "", [False, 1], 99))
    client.check()


# ---------------------------------------------------------------- watches

class ShardedWatch:
    """A watch of a spread table in two shards; ``event`` delivers the changes of a shard."""

    def __init__(self) -> None:
        self.sent: list = []
        self.seen: list = []
        self.client = GcsClient(ME, lambda peer, message: self.sent.append(message), [b"n"], shards=2)
        self.number = self.client.subscribe(b"kv/", lambda position, reset, changes: self.seen.append(
            (position, reset, [(change.key, change.value) for change in changes])))

    def event(self, asked: int, previous: int, version: int, reset: bool, *rows: tuple) -> None:
        part = self.sent[asked]
        self.client.on_message(b"n", GcsEvents(part.watch, previous, version, reset, [list(row) for row in rows],
                                               part.shard))
        self.client.check()


def test_a_watch_of_two_shards_begins_when_both_have_answered_and_keeps_the_order_of_each():
    wire = ShardedWatch()
    wire.event(0, -1, 3, True, (3, b"kv/b", b"1"))
    wire.event(0, 3, 4, False, (4, b"kv/b", b"2"))
    assert not wire.seen
    wire.event(1, -1, 7, True, (6, b"kv/a", b"1"))
    wire.event(1, 7, 8, False, (8, b"kv/a", None))
    wire.event(0, 4, 6, False, (5, b"kv/c", b"3"), (6, b"kv/b", None))
    wire.event(1, 7, 8, False, (8, b"kv/a", None))
    assert wire.seen == [
        (11, True, [(b"kv/a", b"1"), (b"kv/b", b"2")]), (12, False, [(b"kv/a", None)]),
        (14, False, [(b"kv/c", b"3"), (b"kv/b", None)])]


def test_a_shard_that_forgot_makes_the_watch_begin_again_with_the_whole_state():
    wire = ShardedWatch()
    wire.event(0, -1, 3, True)
    wire.event(1, -1, 7, True, (6, b"kv/a", b"1"))
    wire.event(0, 3, 9, True, (9, b"kv/b", b"1"))
    assert len(wire.seen) == 1, "not the state of one shard as if it were all"
    assert {(m.watch, m.shard) for m in wire.sent if isinstance(m, GcsUnwatch)} == {(1, 0), (2, 1)}
    wire.event(1, 7, 8, False, (8, b"kv/a", b"late"))
    wire.event(-2, -1, 9, True, (9, b"kv/b", b"1"))
    wire.event(-1, -1, 8, True, (8, b"kv/a", b"2"))
    assert wire.seen[1:] == [(17, True, [(b"kv/a", b"2"), (b"kv/b", b"1")])]
    wire.client.unwatch(wire.number)
    wire.client.check()
    assert not wire.client._watches._parts


def test_a_watch_of_one_key_asks_its_shard_alone_and_hears_of_no_longer_key():
    service = GcsService(gcs_ports(send=print), incarnation=ME)
    seen: list = []
    service.client.watch_key(tables.KV + b"k", lambda reset, changes: seen.append((reset, changes)))
    assert sum(len(replica.publisher.watchers) for replica in service.replicas.values()) == 2, "with that of the nodes"
    service.client.put(tables.KV + b"k", b"1")
    for i in range(50):
        service.client.put(tables.KV + b"k%d" % i, b"2")
    assert [(reset, [change.value for change in changes]) for reset, changes in seen] == [(True, []), (False, [b"1"])]


def test_a_watch_through_a_node_gets_every_change_of_every_shard_once():
    messages: list = []
    service = GcsService(gcs_ports(send=lambda peer, message: messages.append(message)), incarnation=ME[:4] + bytes(4))
    client = GcsClient(ME, lambda peer, message: service.receive(ME, message), [service.incarnation])
    seen: list = []
    client.watch(tables.KV, lambda reset, changes: seen.append((reset, [change.value for change in changes])))
    for i in range(600):
        service.client.kv_put(b"%d" % (i % 20), b"%d" % i)
        while messages:
            client.on_message(service.incarnation, messages.pop(0))
    assert seen == [(True, []), *((False, [b"%d" % i]) for i in range(600))]
    service.check()
    client.check()
