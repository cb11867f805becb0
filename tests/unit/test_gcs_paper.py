"""What the chain takes from van Renesse and Schneider, "Chain Replication for Supporting High Throughput and
Availability", OSDI 2004: one test a sentence.  Docstrings name the section and paraphrase the sentence."""

from __future__ import annotations

from collections import deque

import pytest

from zray.gcs.configuration.config import ChainConfig
from zray.gcs.replica.chain import ACK_S, CHAIN_WINDOW, ChainReplica, UnsafeConfig
from zray.gcs.replica.tables import GET, PUT
from zray.wire.messages import ChainAck, ChainUpdates, GcsRedirect, GcsReply, GcsRequest

A, B, C, D, CLIENT = b"A", b"B", b"C", b"D", b"client"


class ReplicaBench:
    """Replicas joined by perfect links that a test can hold up; time stands still unless a test moves it."""

    def __init__(self, *names: bytes) -> None:
        self.config = ChainConfig.first(*names)
        self.replicas = {name: ChainReplica(name, self.config) for name in names}
        self.links: deque[tuple[bytes, bytes, object]] = deque()
        self.log: list[tuple[bytes, bytes, object]] = []
        self.answers: list[tuple[bytes, object]] = []
        self.now = 0.0
        for replica in self.replicas.values():
            replica.grant_lease(1, 1e9)
        self.tick()

    def emit(self, source, out) -> None:
        for peer, message in out:
            if peer == CLIENT:
                self.answers.append((source, message))
            else:
                self.links.append((source, peer, message))

    def run(self, lose=lambda source, target, message: False) -> None:
        while self.links:
            source, target, message = self.links.popleft()
            if lose(source, target, message) or target not in self.replicas:
                continue
            self.log.append((source, target, message))
            self.emit(target, self.replicas[target].on_message(source, message, self.now))
            self.replicas[target].check()

    def tick(self) -> None:
        self.now += 1.0
        for name, replica in self.replicas.items():
            self.emit(name, replica.tick(self.now))
        self.run()

    def request(self, to: bytes, number: int, op: list) -> None:
        self.emit(to, self.replicas[to].on_message(CLIENT, GcsRequest(number, max(1, number), op), self.now))

    def adopt(self, config: ChainConfig) -> None:
        self.config = config
        for name, replica in list(self.replicas.items()):
            self.emit(name, replica.reconfigure(config, self.now))
            replica.grant_lease(config.epoch, 1e9)

    def take_answers(self) -> list[tuple[bytes, object]]:
        answers, self.answers = self.answers, []
        return answers


def put(key: bytes, value: bytes) -> list:
    return [PUT, b"kv/" + key, value]


def get(key: bytes) -> list:
    return [GET, b"kv/" + key]


def test_the_reply_for_every_request_is_generated_and_sent_by_the_tail():
    """Section 3, Reply Generation."""
    bench = ReplicaBench(A, B, C)
    bench.request(A, 1, put(b"k", b"v"))
    assert not bench.answers
    bench.run()
    bench.request(C, -1, get(b"k"))
    assert bench.take_answers() == [(C, GcsReply(1, "", [False, 1])), (C, GcsReply(-1, "", [b"v", 1]))]


def test_each_query_is_directed_to_the_tail_and_processed_there():
    """Section 3, Query Processing: no other replica answers one."""
    bench = ReplicaBench(A, B, C)
    for other in (A, B):
        bench.request(other, -1, get(b"k"))
    assert all(type(answer) is GcsRedirect for _, answer in bench.take_answers())


def test_updates_enter_at_the_head_and_pass_down_until_the_tail_handles_them():
    """Section 3, Update Processing."""
    bench = ReplicaBench(A, B, C)
    for other in (B, C):
        bench.request(other, 1, put(b"k", b"v"))
    assert all(type(answer) is GcsRedirect for _, answer in bench.take_answers())
    bench.log.clear()
    bench.request(A, 1, put(b"k", b"v"))
    bench.run()
    path = [(source, target) for source, target, message in bench.log if type(message) is ChainUpdates]
    assert path == [(A, B), (B, C)]


def test_a_write_that_is_answered_is_on_every_replica():
    """Section 3: strong consistency follows because the tail, the last in line, processes all requests serially."""
    bench = ReplicaBench(A, B, C)
    for number in range(1, 20):
        bench.request(A, number, put(b"%d" % (number % 5), b"v%d" % number))
        bench.run()
        assert len({replica.state.snapshot() for replica in bench.replicas.values()}) == 1
    assert len(bench.take_answers()) == 19


def test_sent_holds_what_was_forwarded_and_perhaps_not_processed_by_the_tail():
    """Section 3.2, Failure of Other Servers: whenever server i forwards r, it appends r to Sent; on ack(r) it deletes r
    and forwards ack(r) to its predecessor."""
    bench = ReplicaBench(A, B, C)
    bench.request(A, 1, put(b"k", b"v"))
    bench.run(lose=lambda source, target, message: target == C)
    assert [len(bench.replicas[name]._sent) for name in (A, B, C)] == [1, 1, 0]
    bench.log.clear()
    bench.tick()  # sent again
    bench.tick()  # and acknowledged
    assert [len(bench.replicas[name]._sent) for name in (A, B, C)] == [0, 0, 0]
    acks = [(source, target) for source, target, message in bench.log if type(message) is ChainAck]
    assert (C, B) in acks and (B, A) in acks


def test_failure_of_the_head_drops_only_requests_it_had_not_forwarded():
    """Section 3.2, Failure of the Head: its successor becomes head; what H received and did not forward leaves Pending
    (transition T2 of figure 1, a request ignored) and the client may ask again."""
    bench = ReplicaBench(A, B, C)
    bench.request(A, 1, put(b"forwarded", b"1"))
    bench.run()
    bench.request(A, 2, put(b"lost", b"2"))
    bench.links.clear()
    del bench.replicas[A]
    bench.adopt(bench.config.without(A))
    bench.run()
    assert [replica.applied for replica in bench.replicas.values()] == [1, 1]
    bench.request(B, 2, put(b"lost", b"2"))
    bench.run()
    assert [source for source, _ in bench.take_answers()] == [C, C]
    assert bench.replicas[C].applied == 2


def test_failure_of_the_tail_completes_what_its_predecessor_had():
    """Section 3.2, Failure of the Tail: T- becomes the tail; its history extends T's, so Pending shrinks: requests that
    only T had still to process count as processed (T3) and are answered by T-."""
    bench = ReplicaBench(A, B, C)
    bench.request(A, 1, put(b"k", b"v"))
    bench.run(lose=lambda source, target, message: target == C)
    assert not bench.answers
    del bench.replicas[C]
    bench.adopt(bench.config.without(C))
    bench.run()
    assert bench.take_answers() == [(B, GcsReply(1, "", [False, 1]))]
    bench.request(B, -1, get(b"k"))
    assert bench.take_answers() == [(B, GcsReply(-1, "", [b"v", 1]))]


def test_failure_inside_the_chain_forwards_the_part_of_sent_that_the_successor_lacks():
    """Section 3.2, Failure of Other Servers: S- first forwards the requests in its Sent to S+, and need not forward the
    prefix that is already in the history of S+."""
    bench = ReplicaBench(A, B, C)
    bench.request(A, 1, put(b"1", b"v"))
    bench.run(lose=lambda source, target, message: type(message) is ChainAck)  # C has 1, nobody knows
    bench.request(A, 2, put(b"2", b"v"))
    bench.links.clear()  # 2 dies with B
    del bench.replicas[B]
    bench.log.clear()
    bench.adopt(bench.config.without(B))
    bench.run()
    sent = [message for source, target, message in bench.log if type(message) is ChainUpdates]
    assert [(message.first, len(message.entries)) for message in sent] == [(2, 1)]
    bench.tick()
    assert bench.replicas[A].applied == bench.replicas[C].applied == bench.replicas[A].committed == 2


def test_update_propagation_and_inprocess_requests_invariants():
    """Section 3.2: for i <= j, Hist of j is a prefix of Hist of i; and Hist of i is Hist of j followed by Sent of i."""
    bench = ReplicaBench(A, B, C)
    for number in range(1, 30):
        bench.request(A, number, put(b"%d" % number, b"v"))
        bench.run(lose=lambda source, target, message, n=number: n % 3 == 0 and target == C)
        a, b, c = (bench.replicas[name] for name in (A, B, C))
        assert a.applied >= b.applied >= c.applied
        assert a._sent_base <= b.applied and b._sent_base <= c.applied


def extended(bench: ReplicaBench) -> None:
    bench.replicas[D] = ChainReplica(D, bench.config)
    bench.adopt(bench.config.join(D))


def test_a_chain_is_extended_behind_the_tail_which_goes_on_serving():
    """Section 3.2, Extending a Chain: the forwarding of the history can be concurrent with T's processing of queries
    and updates, provided each update is also appended to Sent of T."""
    bench = ReplicaBench(A, B)
    bench.request(A, 1, put(b"old", b"1"))
    bench.run()
    extended(bench)
    bench.request(A, 2, put(b"new", b"2"))
    bench.request(B, -1, get(b"old"))
    answers = bench.take_answers()
    assert (B, GcsReply(-1, "", [b"1", 1])) in answers
    bench.run(lose=lambda source, target, message: target == D)
    assert bench.replicas[B].applied == bench.replicas[B].committed == 2
    assert len(bench.replicas[B]._sent) == 1, "update 2 is in Sent of T"
    bench.tick()
    bench.tick()
    assert bench.replicas[B].joiner_caught_up()
    assert bench.replicas[D].state.snapshot() == bench.replicas[B].state.snapshot()


def test_the_new_tail_serves_only_once_its_history_is_that_of_the_old_tail():
    """Section 3.2, Extending a Chain: T+ can begin serving as the tail once it has T's history; T is told that it no
    longer is the tail, and sends the requests in Sent of T.  (The Ray paper's prototype served before that.)"""
    bench = ReplicaBench(A, B)
    for number in (1, 2):
        bench.request(A, number, put(b"k", b"%d" % number))
        bench.run()
    extended(bench)
    bench.links.clear()
    bench.adopt(bench.config.promoted())  # too early: D has nothing yet
    bench.links.clear()
    bench.take_answers()
    bench.request(B, -1, get(b"k"))
    assert type(bench.take_answers()[0][1]) is GcsRedirect, "T no longer is the tail"
    bench.request(D, -2, get(b"k"))
    assert not bench.take_answers() and not bench.replicas[D].serving
    bench.tick()
    bench.request(D, -3, get(b"k"))
    answer = [b"2", 2]
    assert bench.take_answers() == [(D, GcsReply(-2, "", answer)), (D, GcsReply(-3, "", answer))], "what came early too"


def test_a_new_tail_answers_the_update_that_completes_its_history():
    """Section 3.2, Extending a Chain: what reaches T after T+ has become the tail is answered by T+, which sees it
    before it may serve."""
    bench = ReplicaBench(A, B)
    extended(bench)
    bench.run()
    assert bench.replicas[B].joiner_caught_up()
    bench.adopt(bench.config.promoted())
    bench.request(A, 1, put(b"k", b"v"))
    bench.run(lose=lambda source, target, message: D in (source, target))
    assert not bench.take_answers()
    bench.tick()
    assert bench.take_answers() == [(D, GcsReply(1, "", [False, 1]))]


def test_for_a_tail_sent_is_empty():
    """Section 3.2, Extending a Chain: the value of Sent of a tail is always the empty list."""
    bench = ReplicaBench(A)
    for number in range(1, 50):
        bench.request(A, number, put(b"k", b"%d" % number))
        bench.replicas[A].check()
        assert not bench.replicas[A]._sent
    assert len(bench.answers) == 49


def test_as_many_as_t_minus_1_servers_may_fail():
    """Section 3: with an object on t servers, as many as t - 1 of them can fail."""
    bench = ReplicaBench(A, B, C, D)
    for number, victim in enumerate((C, A, D), start=1):
        bench.request(bench.config.head, number, put(b"%d" % number, b"v"))
        bench.run()
        bench.tick()
        del bench.replicas[victim]
        bench.adopt(bench.config.without(victim))
        bench.run()
    bench.request(B, 4, put(b"4", b"v"))
    assert len(bench.replicas[B].state.tables.rows) == 4 and len(bench.answers) == 4


def test_beyond_the_paper_acknowledgements_wait_for_each_other():
    """Section 3.2 sends ack(r) for every r; being cumulative, one stands for all.  No answer waits for one."""
    bench = ReplicaBench(A, B, C)
    bench.log.clear()
    for number in range(1, 101):
        bench.request(A, number, put(b"k", b"v"))
        bench.run()
    assert len(bench.take_answers()) == 100 and bench.replicas[A].committed == 0
    assert not [message for _, _, message in bench.log if type(message) is ChainAck]
    assert bench.replicas[C].acknowledge_at == bench.now + ACK_S < bench.replicas[B].acknowledge_at
    bench.now += ACK_S
    for name in (A, B, C):
        bench.emit(name, bench.replicas[name].tick(bench.now))
    bench.run()
    assert [(s, t) for s, t, message in bench.log if type(message) is ChainAck] == [(C, B), (B, A)]
    assert bench.replicas[A].committed == 100 and not bench.replicas[A]._sent
    for number in range(101, 101 + CHAIN_WINDOW // 4):
        bench.request(A, number, put(b"k", b"v"))
        bench.run()
    assert bench.replicas[A].committed > 100, "a quarter of the window is acknowledged at once"


def test_beyond_the_paper_a_replica_that_may_lack_writes_refuses_to_be_head():
    """Section 3.2 assumes that a fully initialised member remains; without one, data would be lost silently."""
    bench = ReplicaBench(A)
    bench.request(A, 1, put(b"k", b"v"))
    extended(bench)
    bench.links.clear()
    bench.adopt(bench.config.promoted())
    with pytest.raises(UnsafeConfig):
        bench.replicas[D].reconfigure(bench.config.without(A), bench.now)
    assert bench.replicas[D].config == bench.config


def test_beyond_the_paper_messages_of_another_epoch_are_void():
    """Section 3 assumes fail-stop; here an old head may live on, so all epochs but the current one are void."""
    bench = ReplicaBench(A, B, C)
    old = bench.replicas.pop(A)
    bench.adopt(bench.config.without(A))
    bench.run()
    bench.emit(A, old.on_message(CLIENT, GcsRequest(1, 1, put(b"k", b"v")), bench.now))
    bench.run()
    assert old.applied == 1 and bench.replicas[B].applied == bench.replicas[C].applied == 0
    assert bench.replicas[B].counters["other_epoch"] == 1
    assert not bench.answers


def test_beyond_the_paper_a_tail_without_a_lease_does_not_answer_reads():
    bench = ReplicaBench(A, B)
    bench.replicas[B].grant_lease(1, bench.now)
    bench.request(B, -1, get(b"k"))
    assert not bench.answers and bench.replicas[B].counters["unready"] == 1


def test_beyond_the_paper_a_branch_that_was_cut_off_is_discarded_on_return():
    """A replica that was removed may hold other updates under numbers the chain has since used."""
    bench = ReplicaBench(A, B)
    old = bench.replicas.pop(A)
    old.on_message(CLIENT, GcsRequest(1, 1, put(b"k", b"branch")), 0)
    bench.adopt(bench.config.without(A))
    bench.request(B, 1, put(b"k", b"chain"))
    bench.replicas[A] = old  # it never heard of its removal
    bench.adopt(bench.config.join(A))
    bench.run()
    bench.tick()
    assert old.state.snapshot() == bench.replicas[B].state.snapshot()
    bench.adopt(bench.config.promoted())
    bench.run()
    bench.request(A, -1, get(b"k"))
    assert bench.answers[-1] == (A, GcsReply(-1, "", [b"chain", 1]))


def test_a_new_tail_that_is_fed_in_parts_serves_only_after_the_last(monkeypatch):
    """Section 3.2, Extending a Chain, once more: a part of T's history is not T's history."""
    monkeypatch.setattr("zray.gcs.replica.chain.CHAIN_WINDOW", 1)
    bench = ReplicaBench(A)
    extended(bench)
    bench.run()
    for number in (1, 2, 3):
        bench.request(A, number, put(b"k", b"%d" % number))
    bench.links.clear()  # D has seen none of them
    bench.adopt(bench.config.promoted())
    served_at = []
    while bench.links:
        source, target, message = bench.links.popleft()
        bench.emit(target, bench.replicas[target].on_message(source, message, bench.now))
        served_at.append((bench.replicas[D].applied, bench.replicas[D].serving))
    assert (1, False) in served_at and (2, False) in served_at and served_at[-1] == (3, True)
