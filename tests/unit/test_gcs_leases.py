"""Read leases while tails move: which removals wait, and which requests are answered later.  Times are simulated."""

from __future__ import annotations

import math

import pytest

from zray.gcs.configuration.config import ChainConfig, ClusterConfig
from zray.gcs.configuration.register import ADOPTION_S, PROMISE_S, Acceptor
from zray.gcs.replica.chain import ChainReplica
from zray.wire.messages import LeaseAsk, LeasePromise, RegisterAccept, RegisterAccepted, RegisterRefused

A, B, C, D = NAMES = [b"a", b"b", b"c", b"d"]
# B is the tail of the first shard and a member of the second, whose tail is C.
BASE = ClusterConfig(1, (A, B, C), (ChainConfig.first(A, B), ChainConfig.first(A, B, C)))


def follow(config: ClusterConfig, *chains: ChainConfig, voters: tuple[bytes, ...] = ()) -> ClusterConfig:
    return config._replace(generation=config.generation + 1, chains=chains or config.chains,
                           voters=voters or config.voters)


def accept(voter: Acceptor, value: ClusterConfig, now: float):
    """The voter's answer to a proposal."""
    (_, answer), = voter.on_accept(A, RegisterAccept(1, voter.config.pack(), value.pack()), voter.config, value, now)
    return answer


def promised(voter: Acceptor, tail: bytes, generation: int, now: float) -> bool:
    return voter.on_lease(tail, LeaseAsk(generation, 1), now) == [(tail, LeasePromise(generation, 1))]


def moved(config: ClusterConfig) -> ClusterConfig:
    """D has become the tail of the first shard, behind B."""
    chain = config.chains[0].join(D).promoted()._replace(epoch=config.chains[0].epoch + 1)
    return follow(config, chain, *config.chains[1:])


def test_a_tail_with_a_lease_is_waited_for_and_gets_no_other_lease_meanwhile():
    voter = Acceptor(A, BASE)
    assert promised(voter, B, 1, 0.0)
    answer = accept(voter, follow(BASE, BASE.chains[0].without(B), BASE.chains[1]), 0.1)
    assert isinstance(answer, RegisterRefused) and answer.wait_s == pytest.approx(PROMISE_S - 0.1)
    assert not promised(voter, B, 1, 0.1)
    assert isinstance(accept(voter, follow(BASE, BASE.chains[0].without(B), BASE.chains[1]), PROMISE_S),
                      RegisterAccepted)


def test_tails_that_leave_together_are_held_as_long_as_the_last_of_them():
    """Else each gets a new lease while the other's runs out, for ever."""
    voter = Acceptor(A, BASE)
    value = follow(BASE, BASE.chains[0].without(B), BASE.chains[1].without(C))
    assert promised(voter, B, 1, 0.0) and promised(voter, C, 1, 0.2)
    assert isinstance(accept(voter, value, 0.2), RegisterRefused)
    assert not promised(voter, B, 1, 0.2 + PROMISE_S)
    assert isinstance(accept(voter, value, 0.2 + PROMISE_S), RegisterAccepted)


def test_a_node_leaves_a_chain_of_which_it_is_no_tail_without_a_wait_and_reads_others_on():
    voter = Acceptor(A, BASE)
    assert promised(voter, B, 1, 0.0)
    answer = accept(voter, follow(BASE, BASE.chains[0], BASE.chains[1].without(B)), 0.1)
    assert isinstance(answer, RegisterAccepted)
    assert promised(voter, B, 1, 0.1), "it stays the tail of the other shard"


def test_the_old_tail_of_a_shard_that_moved_leaves_once_it_has_said_that_it_knows():
    voter, after = Acceptor(A, BASE), moved(BASE)
    assert promised(voter, B, 1, 0.0)
    voter.learn(after, 0.1)
    value = follow(after, after.chains[0].without(B), after.chains[1])
    answer = accept(voter, value, 0.1)
    assert isinstance(answer, RegisterRefused) and answer.wait_s == ADOPTION_S, "it may still read there"
    voter.heard_adopted(B, 2)
    assert isinstance(accept(voter, value, 0.1), RegisterAccepted)


def test_news_of_an_adoption_counts_also_when_it_comes_before_the_configuration():
    voter, after = Acceptor(A, BASE), moved(BASE)
    assert promised(voter, B, 1, 0.0)
    voter.heard_adopted(B, 2)
    voter.learn(after, 0.1)
    assert isinstance(accept(voter, follow(after, after.chains[0].without(B), after.chains[1]), 0.1),
                      RegisterAccepted)


def test_a_node_that_becomes_the_tail_of_another_shard_reads_it_under_the_lease_that_it_has():
    voter = Acceptor(A, BASE)
    assert promised(voter, B, 1, 0.0)
    after = follow(BASE, BASE.chains[0], BASE.chains[1].without(C))  # B is the tail of both
    voter.learn(after, 0.1)
    answer = accept(voter, follow(after, after.chains[0], after.chains[1].without(B)), 0.1)
    assert isinstance(answer, RegisterRefused) and answer.wait_s == pytest.approx(PROMISE_S - 0.1)


@pytest.mark.parametrize("voters", [(A, B, C), (A, B, C, D)])
def test_a_voter_that_may_have_missed_a_promise_waits_for_every_member_it_knows_nothing_of(voters):
    """B may be the tail of the second shard in a generation between, or have a lease of other voters."""
    voter = Acceptor(A, BASE)
    later = follow(BASE, voters=voters) if len(voters) > 3 else follow(follow(BASE))
    voter.learn(later, 0.0)
    value = follow(later, later.chains[0], later.chains[1].without(B))
    assert isinstance(accept(voter, value, 0.0), RegisterRefused)
    voter.heard_adopted(B, later.generation)
    assert isinstance(accept(voter, value, 0.0), RegisterAccepted)


def test_a_request_that_overtakes_the_configuration_is_answered_with_it():
    voter, after = Acceptor(A, BASE), moved(BASE)
    voter.learn(follow(BASE, BASE.chains[0].join(D), BASE.chains[1]), 0.0)
    ask = LeaseAsk(3, 7)
    assert voter.on_lease(D, ask, 0.0) == []
    voter.learn(after._replace(generation=3), 0.1)
    assert voter.answer_early(0.1) == [(D, LeasePromise(3, 7))]
    assert voter.answer_early(0.1) == [], "once"


@pytest.mark.parametrize(("value", "agrees"), [
    (moved(BASE), True),
    (follow(BASE, BASE.chains[0], BASE.chains[1].without(B)), True),
    (follow(BASE, BASE.chains[0].without(B), BASE.chains[1]), False),
    (follow(BASE, voters=(A, B, C, D)), False)])
def test_a_voter_that_has_accepted_a_value_promises_only_what_agrees_with_it(value, agrees):
    voter = Acceptor(A, BASE)
    assert isinstance(accept(voter, value, 0.0), RegisterAccepted)
    assert promised(voter, B, 1, 0.0) is agrees
    voter.check()


def test_the_only_member_of_a_chain_reads_freely_until_another_joins():
    """Else it would read on after it was removed, if it never heard that the other had become the tail."""
    alone = ChainConfig.first(A)
    replica = ChainReplica(A, alone)
    assert replica.lease_until == math.inf
    replica.reconfigure(alone.join(B), 0.0)
    assert replica.lease_until == -math.inf
    joined = ClusterConfig(1, (A,), (alone.join(B),))
    assert joined.reading == {A} and not follow(joined, alone).reading
