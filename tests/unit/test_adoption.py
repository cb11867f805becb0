"""What owners tell holders, and what becomes of objects whose owner dies: single steps.

tests/model/test_adoption_model.py has the interleavings.
"""

from __future__ import annotations

import msgpack
import pytest

from tests.fakes.owner_net import RecordingNet
from zray.base.ends import Ends
from zray.base.ids import node_of
from zray.gcs.client.requests import Call
from zray.owner.adoption import CLAIM_AGAIN_S, CLAIMS_MAX, GRACE_S, LOOK_AGAIN_S, MOVES_MAX, Adoption
from zray.owner.eager_values import CARRIED_MAX, EagerValues
from zray.owner.references import LENT, RECORD_BYTES, References
from zray.wire import messages as m

ME, OWNER, OTHER, THIRD = b"me".ljust(8), b"owner".ljust(8), b"other".ljust(8), b"third".ljust(8)
OID, INNER = b"o" * 28, b"i" * 28
STORED = [m.STORED, 0, 100, 7, OID, b"node".ljust(8)]


class FakeOwners:
    """The rows, at once; or, with ``waiting``, when the test says so."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.waiting: list | None = None
        self.error = ""
        self.asked = 0

    def swap_owner(self, oid, old, new, done):
        def apply():
            won = self.rows.get(oid) == old
            if won and new is None:
                del self.rows[oid]
            elif won:
                self.rows[oid] = new
            return won, self.rows.get(oid)
        self._issue(apply, done)

    def read_owner(self, oid, done):
        self._issue(lambda: self.rows.get(oid), done)

    def _issue(self, apply, done):
        self.asked += 1

        def answer():
            call = Call([])
            call.complete(self.error, None if self.error else apply())
            done(call)
        answer() if self.waiting is None else self.waiting.append(answer)

    def name(self, oid, owner):
        self.rows[oid] = msgpack.packb([owner, "ipc://there", 1])


class AdoptingProcess:
    """One process's machines; everybody else is the test."""

    def __init__(self, tells=True, kept_bytes_max=10_000):
        self.net, self.owners, self.now = RecordingNet(), FakeOwners(), 0.0
        self.freed: list[bytes] = []
        self.refs = References(ME, self.net, lambda oid, value, escaped: self.freed.append(oid), Ends(),
                               kept_bytes_max)
        if tells:
            self.refs.eager = EagerValues(self.refs, ME, "ipc://me", kept_bytes_max)
        self.adoption = Adoption(self.refs, self.owners, "ipc://me", lambda: self.now)

    def turn(self, seconds=0.0):
        self.now += seconds
        self.adoption.pump()
        self.refs.flush()
        self.refs.check()
        self.adoption.check()

    def borrow(self, value=None, oid=OID):
        record = self.refs.restore(oid, OWNER, "ipc://owner")
        if value is not None:
            self.refs.on_resolved(OWNER, m.Resolved([oid, value]))
        self.turn()
        return record

    def owner_dies(self):
        self.refs.process_ended(OWNER)
        self.turn()


@pytest.fixture
def process():
    return AdoptingProcess()


def holds(oid=OID, n=1, *known):
    return m.HoldAdd([[oid, n, *known]], OTHER, [])


# ---------------------------------------------------------------- eager

def test_holders_are_told_when_a_pending_object_is_ready_once_each(process):
    entry = process.refs.own(OID)
    process.refs.on_hold_add(OTHER, holds())
    process.refs.on_locate(OTHER, m.Locate([OID]))
    process.refs.on_hold_add(THIRD, m.HoldAdd([[OID, 1]], THIRD, []))
    process.refs.complete(entry, b"value")
    process.turn()
    assert process.net.take(m.Resolved) == [(OTHER, m.Resolved([OID, b"value"])), (THIRD, m.Resolved([OID, b"value"]))]


def test_a_holder_is_told_of_a_ready_object_unless_it_knows_or_asks(process):
    process.refs.complete(process.refs.own(OID), b"value")
    process.refs.on_hold_add(OTHER, holds())
    process.turn()
    process.refs.on_hold_add(OTHER, holds(OID, 2, 1))
    process.turn()
    assert process.net.take(m.Resolved) == [(OTHER, m.Resolved([OID, b"value"]))]
    process.refs.on_hold_add(THIRD, m.HoldAdd([[OID, 1]], THIRD, []))
    process.refs.on_locate(THIRD, m.Locate([OID]))
    process.turn()
    assert process.net.take(m.Resolved) == [(THIRD, m.Resolved([OID, b"value"]))]


def test_who_let_go_in_the_same_turn_or_was_only_announced_is_not_told(process):
    process.refs.complete(process.refs.own(OID), b"value")
    process.refs.on_hold_add(OTHER, holds())
    process.refs.on_hold_drop(OTHER, m.HoldDrop([[OID, 1]], OTHER))
    process.refs.on_hold_add(OTHER, m.HoldAdd([[OID, 1]], THIRD, []))
    process.turn()
    assert process.net.take(m.Resolved) == []


def test_a_driver_tells_nobody():
    process = AdoptingProcess(tells=False)
    process.refs.complete(process.refs.own(OID), b"value")
    process.refs.on_hold_add(OTHER, holds())
    process.turn()
    assert process.net.take(m.Resolved) == []


def test_references_inside_a_value_go_along_and_stay_pinned_until_they_are_held(process):
    inner = process.refs.own(INNER)
    outer = process.refs.own(OID)
    outer.contained = [inner]
    process.refs.complete(outer, b"value")
    process.refs.on_hold_add(OTHER, holds())
    process.turn()
    [(_, told)] = process.net.take(m.Resolved)
    assert told.values == [OID, [m.CARRYING, b"value", [[INNER, ME, "ipc://me"]], 1]]
    process.refs.unpin(outer)
    process.refs.on_hold_drop(OTHER, m.HoldDrop([[OID, 1]], OTHER))
    assert INNER in process.refs.owned
    process.refs.transits.on_transit_done(OTHER, m.TransitDone([1]))
    assert INNER not in process.refs.owned


def test_a_value_that_refers_to_very_many_objects_is_told_only_when_asked_for(process):
    outer = process.refs.own(OID)
    outer.contained = [process.refs.own(INNER[:20] + b"%08d" % i) for i in range(CARRIED_MAX + 1)]
    process.refs.complete(outer, b"value")
    process.refs.on_hold_add(OTHER, holds())
    process.turn()
    assert process.net.take(m.Resolved) == []
    process.refs.on_locate(OTHER, m.Locate([OID]))
    assert process.net.take(m.Resolved) == [(OTHER, m.Resolved([OID, b"value"]))]


def test_a_result_takes_values_along_up_to_a_bound(process):
    entries = [process.refs.own(bytes([i]) * 28) for i in range(4)]
    for entry, value in zip(entries, (b"x" * 60, None, STORED, b"y" * 60), strict=True):
        if value is not None:
            process.refs.complete(entry, value)
    triples = [[entry.oid, ME, "ipc://me"] for entry in entries]
    assert process.refs.eager.attach_values(triples, entries, OTHER, 200) == 40
    assert [triple[3:] for triple in triples] == [[b"x" * 60], [], [STORED], []]


def test_a_result_takes_along_what_is_inside_the_values_that_it_takes_along(process):
    inner, outer = process.refs.own(INNER), process.refs.own(OID)
    process.refs.complete(inner, b"inside")
    outer.contained = [inner]
    process.refs.complete(outer, b"outside")
    triples = [[OID, ME, "ipc://me"]]
    process.refs.eager.attach_values(triples, [outer], OTHER)
    assert triples == [[OID, ME, "ipc://me", [m.CARRYING, b"outside", [[INNER, ME, "ipc://me", b"inside"]], 1]]]
    receiver = AdoptingProcess()
    receiver.refs.me = receiver.refs.transits.me = OTHER
    [record] = receiver.refs.transits.receive(ME, triples, 7)
    assert record.value == b"outside" and [r.value for r in record.contained] == [b"inside"]
    receiver.refs.unpin(record)
    receiver.turn()
    assert not receiver.refs.borrowed and not receiver.refs.kept_bytes
    receiver.refs.on_hold_ack(ME, m.HoldAck([[OID, 2], [INNER, 1]], []))
    done = [token for _, message in receiver.net.take(m.TransitDone) for token in message.tokens]
    assert sorted(done) == [1, 7]


def test_a_reference_lent_to_a_task_is_not_told_of_before_it_is_kept_beyond_its_end(process):
    process.refs.complete(process.refs.own(OID), b"value")
    process.refs.on_hold_add(OTHER, holds(OID, 1, LENT))
    process.turn()
    assert process.net.take(m.Resolved) == []
    process.refs.on_hold_add(OTHER, holds(OID, 1))
    process.turn()
    assert process.net.take(m.Resolved) == [(OTHER, m.Resolved([OID, b"value"]))]


# ---------------------------------------------------------------- holders

def test_an_argument_that_is_kept_registers_again_once_and_one_that_is_dropped_does_not(process):
    kept = process.refs.restore(OID, OWNER, "ipc://owner", lent=True)
    dropped = process.refs.restore(INNER, OWNER, "ipc://owner", lent=True)
    process.turn()
    assert process.net.take(m.HoldAdd) == [(OWNER, m.HoldAdd([[OID, 1, LENT], [INNER, 2, LENT]], ME, []))]
    process.refs.unpin(dropped)
    for _ in range(2):
        assert process.refs.still_held([kept, dropped]) == [[OID, 1]]
    process.turn()
    assert process.net.take(m.HoldAdd) == [(OWNER, m.HoldAdd([[OID, 1]], ME, []))]


def test_a_lent_reference_that_comes_again_in_a_result_registers_again(process):
    process.refs.restore(OID, OWNER, "ipc://owner", lent=True)
    process.turn()
    process.net.sent.clear()
    process.refs.transits.receive(OTHER, [[OID, OWNER, "ipc://owner"]], 0)
    process.turn()
    assert process.net.take(m.HoldAdd) == [(OWNER, m.HoldAdd([[OID, 1]], ME, []))]


def test_a_value_that_comes_with_the_reference_is_not_asked_for(process):
    [record] = process.refs.transits.receive(OWNER, [[OID, OWNER, "ipc://owner", b"value"]], 5)
    process.turn()
    assert record.value == b"value" and process.refs.kept_bytes == 5
    assert process.net.take(m.HoldAdd) == [(OWNER, m.HoldAdd([[OID, 1, 1]], ME, []))]
    process.refs.unpin(record)
    assert process.refs.kept_bytes == 0


def test_what_comes_unasked_beyond_the_bound_is_not_kept_and_what_is_asked_for_is():
    process = AdoptingProcess(kept_bytes_max=1000)
    record = process.borrow(b"x" * 1001)
    assert record.value is None and process.refs.kept_bytes == 0
    process.refs.when_ready(record, lambda record: None)
    process.refs.on_resolved(OWNER, m.Resolved([OID, b"x" * 1001]))
    process.turn()
    assert record.value == b"x" * 1001 and process.refs.kept_bytes == 0


@pytest.mark.parametrize("unasked", ["told", "in a result"])
def test_references_inside_a_value_that_comes_unasked_count_as_the_records_that_they_make(unasked):
    process = AdoptingProcess(kept_bytes_max=5 * RECORD_BYTES)
    inside = [[bytes([i]) * 28, OWNER, "ipc://owner"] for i in range(5)]
    value = [m.CARRYING, b"value", inside, 3]
    if unasked == "told":
        record = process.borrow(value)
    else:
        [record] = process.refs.transits.receive(OWNER, [[OID, OWNER, "ipc://owner", value]], 5)
    assert record.value is None and process.refs.kept_bytes == 0 and list(process.refs.borrowed) == [OID]
    process.refs.on_resolved(OWNER, m.Resolved([OID, [m.CARRYING, b"value", inside[:4], 4]]))
    assert record.value == b"value" and process.refs.kept_bytes == 5 + 4 * RECORD_BYTES
    process.refs.unpin(record)
    process.turn()
    assert not process.refs.borrowed and not process.refs.kept_bytes


def test_a_value_that_comes_after_the_last_reference_has_gone_leaves_nothing(process):
    process.refs.unpin(process.borrow())
    process.refs.on_resolved(OWNER, m.Resolved([OID, [m.CARRYING, b"value", [[INNER, OWNER, "ipc://owner"]], 3]]))
    process.turn()
    process.refs.on_hold_ack(OWNER, m.HoldAck([[INNER, 2]], []))
    assert not process.refs.borrowed and process.net.take(m.TransitDone) == [(OWNER, m.TransitDone([3]))]


# ---------------------------------------------------------------- adoption

def test_a_holder_with_the_value_becomes_the_owner_and_frees_the_object_at_last(process):
    record = process.borrow(STORED)
    process.owner_dies()
    assert record.owner == ME and msgpack.unpackb(process.owners.rows[OID])[0] == ME
    process.refs.on_hold_add(OTHER, holds())
    process.refs.unpin(record)
    process.turn(GRACE_S)
    assert not process.freed
    process.refs.on_hold_drop(OTHER, m.HoldDrop([[OID, 1]], OTHER))
    assert process.freed == [OID] and not process.owners.rows and not process.adoption.adopted


def test_an_adopter_keeps_the_object_for_holders_that_hear_of_the_death_late(process):
    record = process.borrow(STORED)
    process.owner_dies()
    process.refs.unpin(record)
    process.turn(GRACE_S - 0.1)
    assert not process.freed
    process.turn(0.1)
    assert process.freed == [OID] and not process.adoption.busy


def test_what_was_inside_the_value_stays_held_by_the_adopter_and_goes_with_it(process):
    record = process.borrow()
    process.refs.on_resolved(OWNER, m.Resolved([OID, [m.CARRYING, b"value", [[INNER, THIRD, "ipc://third"]], 3]]))
    process.owner_dies()
    process.refs.unpin(record)
    process.turn(GRACE_S / 2)
    assert INNER in process.refs.borrowed
    process.turn(GRACE_S)
    assert not process.refs.borrowed and not process.refs.owned


def test_who_loses_the_claim_holds_it_with_the_winner_and_those_who_came_meanwhile_look_again(process):
    record = process.borrow(STORED)
    process.owners.waiting = []
    process.owner_dies()
    process.refs.on_hold_add(THIRD, m.HoldAdd([[OID, 9]], THIRD, []))
    process.net.sent.clear()
    process.owners.name(OID, OTHER)
    process.owners.waiting.pop()()
    process.turn()
    assert record.owner == OTHER and OID not in process.refs.owned and not process.freed
    assert process.net.take(m.HoldAdd) == [(OTHER, m.HoldAdd([[OID, 1, 1]], ME, []))]
    assert process.net.take(m.HoldAck) == [(THIRD, m.HoldAck([], [OID]))]


def test_a_hold_that_somebody_else_announces_to_an_adopter_counts_for_a_while(process):
    record = process.borrow(STORED)
    process.owner_dies()
    process.refs.unpin(record)
    process.turn(GRACE_S - 1)
    process.refs.on_hold_add(THIRD, m.HoldAdd([[OID, 1]], OTHER, []))
    process.refs.announce(OTHER, [[OID, 1]])
    process.turn(GRACE_S - 1)
    assert not process.freed
    process.turn(1)
    assert process.freed == [OID] and not process.refs.held_by


def test_a_reference_without_the_value_finds_the_adopter_and_asks_it(process):
    record = process.borrow()
    heard = []
    process.refs.when_ready(record, heard.append)
    process.owner_dies()
    assert record.value is None
    process.owners.name(OID, OTHER)
    process.turn(LOOK_AGAIN_S[0])
    assert (OTHER, m.Locate([OID])) in process.net.sent
    process.refs.on_resolved(OTHER, m.Resolved([OID, b"value"]))
    assert heard == [record] and record.value == b"value"


def test_what_nobody_has_the_value_of_ends_with_ownerdiederror_after_some_looks(process):
    record = process.borrow()
    process.owner_dies()
    for seconds in LOOK_AGAIN_S:
        assert record.value is None
        process.turn(seconds)
    assert record.value[:2] == [m.FAILED, "owner_died"] and process.owners.asked == 1 + len(LOOK_AGAIN_S)
    assert not process.adoption.busy


def test_a_connection_that_closed_lets_nobody_claim(process):
    record = process.borrow()
    process.refs.process_closed(OWNER)
    process.refs.transits.receive(OTHER, [[OID, OWNER, "ipc://owner", b"value"]], 0)
    process.turn(sum(LOOK_AGAIN_S))
    assert record.value == b"value" and not process.owners.rows and OID not in process.refs.owned
    process.owner_dies()
    assert OID in process.owners.rows


def test_what_a_dead_adopter_owned_is_adopted_from_it(process):
    record = process.borrow(b"value")
    process.owners.name(OID, OTHER)
    process.owner_dies()
    assert record.owner == OTHER
    process.refs.process_ended(OTHER)
    process.turn()
    assert record.owner == ME and msgpack.unpackb(process.owners.rows[OID])[0] == ME


def test_a_stored_object_that_was_dropped_before_it_was_claimed_is_freed_all_the_same(process):
    record = process.borrow(STORED)
    process.refs.process_ended(OWNER)
    process.refs.unpin(record)
    process.turn()
    process.turn(GRACE_S)
    assert process.freed == [OID] and not process.owners.rows and not process.adoption.busy


def test_a_stored_object_that_was_dropped_just_before_its_owner_died_is_freed_too(process):
    process.refs.unpin(process.borrow(STORED))
    process.turn(0.1)
    process.owner_dies()
    process.turn(GRACE_S)
    assert process.freed == [OID] and not process.owners.rows and not process.adoption.busy
    process.refs.process_ended(THIRD)
    process.turn()
    assert not process.adoption.busy, "once is enough"


def test_it_is_so_when_a_whole_node_dies(process):
    process.refs.unpin(process.borrow(STORED))
    process.refs.node_ended(node_of(OWNER))
    process.turn()
    process.turn(GRACE_S)
    assert process.freed == [OID]


def test_what_was_dropped_long_before_its_owner_died_is_left_to_it(process):
    process.refs.unpin(process.borrow(STORED))
    process.turn(2.0)
    process.owner_dies()
    assert not process.adoption.busy and not process.owners.rows


def test_who_comes_after_the_adopter_has_freed_it_adopts_with_the_value_and_is_lost_without(process):
    process.owners.name(OID, OTHER)
    process.owners.name(INNER, OTHER)
    here, nothing = process.borrow(b"value"), process.borrow(oid=INNER)
    process.owner_dies()
    assert here.owner == nothing.owner == OTHER
    process.refs.on_hold_ack(OTHER, m.HoldAck([[OID, 1], [INNER, 2]], [OID, INNER]))
    process.owners.rows.clear()
    process.turn(LOOK_AGAIN_S[0])
    assert here.owner == ME and OID in process.owners.rows
    process.turn(LOOK_AGAIN_S[1])
    process.turn(LOOK_AGAIN_S[2])
    process.turn(LOOK_AGAIN_S[3])
    assert nothing.value[:2] == [m.FAILED, "owner_died"]


def test_a_row_that_its_writer_does_not_stand_by_is_not_followed_for_ever(process):
    process.owners.name(OID, OTHER)
    record = process.borrow()
    process.owner_dies()
    for _ in range(MOVES_MAX):
        assert record.owner == OTHER and record.value is None
        process.refs.on_hold_ack(OTHER, m.HoldAck([[OID, 1]], [OID]))
        process.turn(LOOK_AGAIN_S[-1])
    assert record.value[:2] == [m.FAILED, "owner_died"] and not process.adoption.busy


def test_a_control_store_that_refuses_is_asked_again_for_a_while_and_what_is_here_stays_readable(process):
    record = process.borrow(b"value")
    process.owners.error = "full: 256 MiB"
    process.owner_dies()
    for _ in range(CLAIMS_MAX):
        process.turn(CLAIM_AGAIN_S)
    assert record.value == b"value" and not process.adoption.busy and OID not in process.refs.owned
    process.refs.unpin(record)
    process.turn()


def test_a_reference_that_turns_up_again_is_one_to_what_is_owned_here(process):
    record = process.borrow(b"value")
    process.owner_dies()
    process.refs.unpin(record)
    again = process.refs.restore(OID, OWNER, "ipc://owner")
    assert again.owner == ME and again.value == b"value"
    process.turn(GRACE_S)
    assert OID in process.refs.owned
    process.refs.unpin(again)
    assert not process.refs.owned


def test_the_owner_of_an_adopted_object_whose_copy_is_lost_says_so(process):
    record = process.borrow(STORED)
    process.owner_dies()
    process.refs.report_lost(record, "its disk failed")
    assert record.value[:2] == [m.FAILED, "owner_died"] and record.value[2]["reason"] == "its disk failed"
