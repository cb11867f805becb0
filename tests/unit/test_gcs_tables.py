"""Tables, answered requests, change log and their snapshot."""

from __future__ import annotations

import pytest

from zray.gcs.replica import dedupe, tables
from zray.gcs.replica.changes import ChangeLog, Publisher
from zray.gcs.replica.dedupe import ClientTable
from zray.gcs.replica.state import CorruptSnapshot, ReplicatedState, Update
from zray.gcs.replica.tables import (
    COMPARE_AND_SET,
    DELETE,
    FORGET,
    GET,
    LIST,
    PUT,
    Change,
    Tables,
    refusal,
    scoped,
    unscoped,
)


@pytest.fixture
def rows():
    made = Tables()
    yield made
    made.check()


def test_create_if_absent_tells_the_loser_who_won(rows):
    assert rows.apply([COMPARE_AND_SET, b"name/a", None, b"x"], 1)[:2] == ("", [True, b"x", 1])
    assert rows.apply([COMPARE_AND_SET, b"name/a", None, b"y"], 2) == ("", [False, b"x", 1], None)


def test_delete_if_equal_spares_a_row_that_changed_hands(rows):
    rows.apply([PUT, b"name/a", b"new"], 1)
    assert rows.apply([COMPARE_AND_SET, b"name/a", b"old", None], 2) == ("", [False, b"new", 1], None)
    assert rows.apply([COMPARE_AND_SET, b"name/a", b"new", None], 3) == (
        "", [True, None, 0], Change(3, b"name/a", None))
    assert rows.read([GET, b"name/a"]) == [None, 0] and rows.bytes_used == 0


def test_an_update_that_changes_nothing_publishes_nothing(rows):
    assert rows.apply([DELETE, b"kv/a"], 1) == ("", False, None)
    assert rows.apply([COMPARE_AND_SET, b"kv/a", None, None], 2) == ("", [True, None, 0], None)


def test_list_goes_page_by_page_in_key_order(rows):
    for i in (3, 1, 2, 5, 4):
        rows.apply([PUT, b"kv/%d" % i, b"v"], i)
    rows.apply([PUT, b"kw/1", b"v"], 6)
    rows.apply([PUT, b"ku/1", b"v"], 7)
    first, more = rows.read([LIST, b"kv/", b"", 2, True])
    assert [key for key, *_ in first] == [b"kv/1", b"kv/2"] and more
    rest, more = rows.read([LIST, b"kv/", first[-1][0], 10, False])
    assert rest == [[b"kv/3", None, 3], [b"kv/4", None, 4], [b"kv/5", None, 5]] and not more


def test_a_full_store_says_so_and_keeps_what_it_has():
    rows = Tables(bytes_max=2 * (tables.ROW_BYTES + 20))
    assert rows.apply([PUT, b"kv/a", b"x" * 10], 1)[0] == ""
    assert rows.apply([PUT, b"kv/b", b"x" * 10], 2)[0] == ""
    error, result, change = rows.apply([PUT, b"kv/c", b"x" * 10], 3)
    assert error.startswith(tables.FULL) and result is None and change is None
    assert rows.apply([PUT, b"kv/a", b"y"], 4)[0] == ""
    assert rows.apply([DELETE, b"kv/b"], 5)[1] is True
    assert rows.apply([PUT, b"kv/c", b"x" * 10], 6)[0] == ""
    rows.check()


@pytest.mark.parametrize(("op", "code"), [
    ([PUT, b"kv/" + b"k" * 5000, b""], tables.TOO_LARGE),
    ([PUT, b"name/x", b"v" * 257], tables.TOO_LARGE),
    ([COMPARE_AND_SET, b"actor/x", None, b"v" * (tables.RECORD_BYTES_MAX + 1)], tables.TOO_LARGE),
    ([PUT, b"nowhere/x", b""], tables.BAD_REQUEST),
    ([PUT, b"noslash", b""], tables.BAD_REQUEST),
    ([PUT, b"kv/x"], tables.BAD_REQUEST),
    ([PUT, b"kv/x", "text"], tables.BAD_REQUEST),
    ([PUT, b"kv/x", None], tables.BAD_REQUEST),
    ([LIST, b"", b"", 0, True], tables.BAD_REQUEST),
    ([LIST, b"", b"", True, True], tables.BAD_REQUEST),
    ([99, b"kv/x"], tables.BAD_REQUEST),
    (["PUT", b"kv/x", b""], tables.BAD_REQUEST),
    ([], tables.BAD_REQUEST),
    (None, tables.BAD_REQUEST),
])
def test_bad_operations_are_refused_with_a_reason(op, code):
    assert refusal(op).startswith(code)


def test_namespaces_are_prefixes_that_cannot_collide():
    assert unscoped(tables.KV, scoped(tables.KV, "späce", b"\x00key")) == ("späce", b"\x00key")
    assert scoped(tables.KV, "a", "bc") != scoped(tables.KV, "ab", "c")
    assert not scoped(tables.KV, "ab", "c").startswith(scoped(tables.KV, "a"))


# ---------------------------------------------------------------- numbered requests

def test_a_repeat_is_known_until_the_client_has_its_answer():
    clients = ClientTable()
    assert clients.classify(b"c", 1, 1) == dedupe.NEW
    clients.record(b"c", 1, 1, (7, "", True))
    assert clients.classify(b"c", 1, 1) == dedupe.KNOWN and clients.answer(b"c", 1) == (7, "", True)
    clients.record(b"c", 2, 2, (8, "", True))
    assert clients.classify(b"c", 1, 1) == dedupe.STALE
    clients.check()


def test_a_forgotten_client_is_told_rather_than_applied_again():
    clients = ClientTable(clients_max=2)
    for name in (b"a", b"b", b"c"):
        clients.record(name, 1, 1, (1, "", None))
    assert clients.classify(b"a", 2, 2) == dedupe.GONE
    assert clients.classify(b"b", 2, 2) == dedupe.NEW
    clients.check()


def test_no_update_of_a_client_that_has_ended_is_applied_any_more():
    clients = ClientTable(clients_max=2)
    clients.record(b"a", 1, 1, (7, "", True))
    assert clients.forget(b"a") and not clients.forget(b"b")
    copy = ClientTable(clients_max=2)
    copy.load(clients.dump())
    for table in (clients, copy):
        table.check()
        assert [table.classify(name, 1, 1) for name in (b"a", b"b", b"c")] == [dedupe.GONE, dedupe.GONE, dedupe.NEW]
    copy.forget(b"c")
    assert copy.classify(b"a", 1, 1) == dedupe.NEW, "the memory is bounded"
    clients.clear()
    assert clients.classify(b"a", 1, 1) == dedupe.NEW


def test_one_client_cannot_open_more_numbers_than_are_remembered():
    clients = ClientTable()
    assert clients.classify(b"c", dedupe.CLIENT_WINDOW + 1, 1) == dedupe.TOO_FAR
    for number in range(1, dedupe.CLIENT_WINDOW + 1):
        assert clients.classify(b"c", number, 1) == dedupe.NEW
        clients.record(b"c", number, 1, (number, "", True))
    assert clients.classify(b"c", dedupe.CLIENT_WINDOW + 1, 1) == dedupe.TOO_FAR
    assert clients.classify(b"c", dedupe.CLIENT_WINDOW + 1, 2) == dedupe.NEW


def test_an_update_that_overtook_an_earlier_one_of_its_client_is_not_applied_before_it():
    clients = ClientTable()
    assert clients.classify(b"c", 2, 1) == dedupe.EARLY
    clients.record(b"c", 1, 1, (1, "", True))
    assert clients.classify(b"c", 3, 1) == dedupe.EARLY
    assert clients.classify(b"c", 2, 1) == dedupe.NEW
    assert clients.classify(b"c", 3, 3) == dedupe.NEW  # the second one was refused, and so is not recorded
    clients.record(b"c", 3, 3, (2, "", True))
    copy = ClientTable()
    copy.load(clients.dump())
    for table in (clients, copy):
        assert [table.classify(b"c", n, 3) for n in (2, 3, 4, 5)] == [
            dedupe.STALE, dedupe.KNOWN, dedupe.NEW, dedupe.EARLY]
        table.check()


# ---------------------------------------------------------------- changes

def test_the_change_log_is_bounded_and_knows_what_it_forgot():
    log = ChangeLog(changes_max=3)
    for version in range(1, 6):
        log.append(Change(version, b"kv/%d" % version, b"v"))
    log.check()
    assert [c.version for c in log.since(2, b"kv/")] == [3, 4, 5]
    assert log.since(1, b"kv/") is None
    big = ChangeLog(bytes_max=1000)
    big.append(Change(1, b"kv/1", b"v" * 5000))
    assert big.base == 1 and not big.changes


def test_a_watcher_without_credit_is_not_sent_more_and_misses_nothing(monkeypatch):
    monkeypatch.setattr("zray.gcs.replica.changes.WATCH_CREDIT", 4)
    state, publisher = ReplicatedState(), Publisher()
    publisher.watch(b"c", 1, b"kv/", -1, 0.0, state.tables, state.changes, 0)
    sent = []
    for number in range(1, 10):
        change = state.apply(Update(b"w", number, number, [PUT, b"kv/x", b"%d" % number]))
        sent += publisher.publish(change)
        publisher.check()
    assert [e.version for _, e in sent] == [1, 2, 3, 4]
    got = [change[0] for _, e in sent for change in e.changes]
    while got[-1] < 9:
        assert not publisher.acknowledge(b"c", 1, got[-1], 0.0) or len(publisher.watchers) == 1
        answer = publisher.watch(b"c", 1, b"kv/", got[-1], 0.0, state.tables, state.changes, state.sequence)
        got += [change[0] for _, e in answer for change in e.changes]
        publisher.check()
    assert got == list(range(1, 10))


# ---------------------------------------------------------------- snapshot

def filled() -> ReplicatedState:
    state = ReplicatedState()
    for number in range(1, 20):
        state.apply(Update(b"c1", number, number, [PUT, b"kv/%d" % (number % 7), b"v" * number]))
    state.apply(Update(b"c2", 1, 1, [DELETE, b"kv/3"]))
    state.apply(Update(b"c2", 2, 2, [FORGET, b"c1"]))
    state.check()
    return state


def test_snapshot_and_restore_are_inverse():
    state, copy = filled(), ReplicatedState()
    copy.restore(state.snapshot())
    copy.check()
    assert copy.snapshot() == state.snapshot()
    assert copy.answer(b"c2", 2) == (21, "", True)
    for s in (state, copy):
        s.apply(Update(b"c3", 1, 1, [PUT, b"kv/after", b"v"]))
    assert copy.snapshot() == state.snapshot()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x80", b"\x95\x01\x00\x90\x90", b"\x95\x02\x00\x90\x90\x92\x00\x90"])
def test_a_corrupt_snapshot_is_refused_and_changes_nothing(raw):
    state = filled()
    before = state.snapshot()
    with pytest.raises(CorruptSnapshot):
        state.restore(raw)
    assert state.snapshot() == before
