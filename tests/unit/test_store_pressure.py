"""Frees, spilling, waiting producers, deaths: the store's promises one by one, on a simulated clock."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import pytest

from tests.oracles.store_harness import Harness
from zray.base.causes import Cause
from zray.core.stored import what_room, why_no_room
from zray.store import StoreFull
from zray.store.client import Allocation
from zray.store.header import SEALED
from zray.store.node.table import EVICTION_GRACE_S
from zray.store.segment import HOOK_MARK
from zray.wire.messages import FAILED

MIB = 1024 * 1024


@pytest.fixture
def harness():
    harness = Harness()
    yield harness
    gc.collect()
    harness.check()
    harness.close()


def test_what_never_left_its_process_is_reused_without_a_message(harness):
    peer = harness.join()
    oid, value = harness.put(peer, b"a" * 1000)
    harness.settle()
    for _ in range(1000):
        peer.client.free(oid, value, False)
        allocation = peer.client.allocate(1000, oid)
        assert isinstance(allocation, Allocation) and allocation.offset == value[1]
        value = allocation.seal()
    peer.client.flush()
    assert not peer.to_node


def test_a_view_keeps_a_freed_local_object_and_its_end_frees_it(harness):
    peer = harness.join()
    oid, value = harness.put(peer, b"kept" * 100)
    view = peer.client.read(value, oid)
    peer.client.free(oid, value, False)
    other = harness.put(peer, b"diff" * 100)[1]
    assert other[1] != value[1] and bytes(view) == b"kept" * 100
    del view
    assert harness.put(peer, b"next" * 100)[1][1] == value[1]


def test_views_are_read_only_and_pinned_by_arrays_made_from_them(harness):
    numpy = pytest.importorskip("numpy")
    peer = harness.join()
    oid, value = harness.put(peer, b"\1" * 800)
    array = numpy.frombuffer(peer.client.read(value, oid), dtype=numpy.uint64)
    with pytest.raises(ValueError):
        array[0] = 1
    assert peer.client.pin_table.count == 1
    del array
    assert peer.client.pin_table.count == 0


def test_a_block_pinned_by_another_process_is_not_reused_until_unpinned(harness):
    maker, reader = harness.join(), harness.join()
    oid, value = harness.put(maker, b"x" * 500)
    view = reader.client.read(value, oid)
    maker.client.free(oid, value, True)
    harness.run(5.0)
    assert value[1] in maker.client.heap.used and bytes(view) == b"x" * 500
    assert reader.client.read(value, oid) is None, "an evicting object takes no new readers"
    del view
    harness.run(5.0)
    assert value[1] not in maker.client.heap.used


def test_an_object_freed_by_its_owner_goes_back_to_the_process_that_made_it(harness):
    owner, worker = harness.join(), harness.join()
    oid, value = harness.put(worker, b"result" * 100)
    owner.client.free(oid, value, False)
    harness.settle()
    assert value[1] in worker.client.heap.used, "the grace has not passed"
    harness.run(2 * EVICTION_GRACE_S)
    assert value[1] not in worker.client.heap.used and value[1] not in worker.client.made


def test_a_forked_child_does_not_unpin_what_its_parent_reads(harness):
    peer = harness.join()
    oid, value = harness.put(peer, b"x" * 500)
    view = peer.client.read(value, oid)
    child = os.fork()
    if child == 0:
        del view
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert peer.client.slot.pinned().count(value[1] | 1) == 1
    assert bytes(view) == b"x" * 500


def test_a_dead_process_leaves_its_sealed_objects_and_nothing_else(harness):
    maker, reader = harness.join(), harness.join()
    oid, value = harness.put(maker, b"sealed" * 100)
    unsealed = maker.client.allocate(5000, harness.new_oid())
    assert isinstance(unsealed, Allocation)
    unsealed._release()
    harness.kill(maker)
    assert harness.service.report()["granted"] == 0
    assert bytes(harness.get(reader, oid, value)) == b"sealed" * 100
    reader.client.free(oid, value, True)
    harness.run(1.0)
    assert harness.service.table.room.arena.free_bytes == harness.service.table.room.arena.reserved


def test_twice_the_capacity_is_stored_by_spilling_and_all_of_it_is_read_back(harness):
    peer = harness.join()
    stored = [(*harness.put(peer, bytes([i]) * 500_000), bytes([i]) * 500_000) for i in range(16)]
    assert harness.service.report()["spilled"] > 0
    for oid, value, content in stored:
        assert harness.get(peer, oid, value) == content
    for oid, value, _ in stored:
        peer.client.free(oid, value, False)
    harness.run(20.0)
    usage = harness.service.report()
    assert usage["spilled"] == usage["stored"] == 0
    assert not os.listdir(harness.spiller.files.directory)


def test_spill_files_are_private(harness):
    peer = harness.join()
    for i in range(12):
        harness.put(peer, bytes([i]) * 500_000)
    directory = harness.spiller.files.directory
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert {os.stat(os.path.join(directory, name)).st_mode & 0o777 for name in os.listdir(directory)} == {0o600}


def test_pinned_objects_are_not_spilled_and_a_full_store_says_who_holds_what(harness):
    peer = harness.join()
    views, stored = [], []
    with pytest.raises(StoreFull) as caught:
        for i in range(16):
            oid, value = harness.put(peer, bytes([i]) * 500_000)
            stored.append(i)
            views.append(peer.client.read(value, oid))
    report = caught.value.report
    assert report["capacity"] == 4 * MIB and "no room for" in str(caught.value)
    assert "capacity 4,194,304" in report["reason"]
    assert [bytes(view[:1])[0] for view in views] == stored, "what was stored stays readable"


def test_an_object_larger_than_the_store_is_refused_at_once(harness):
    peer = harness.join()
    with pytest.raises(StoreFull, match="does not fit into a store of"):
        harness.put(peer, b"x" * (5 * MIB))
    assert harness.now == 0.0


def test_a_waiting_producer_goes_on_when_memory_is_freed(harness):
    peer, other = harness.join(), harness.join()
    oid, value = harness.put(peer, b"x" * (3 * MIB))
    view = peer.client.read(value, oid)
    pending = other.client.allocate(2 * MIB, harness.new_oid())
    harness.run(1.0)
    assert not pending.waiter.done
    del view
    peer.client.free(oid, value, False)
    harness.run(1.0)
    assert pending.waiter.done and not pending.error


def test_room_that_producers_wait_for_is_used_before_it_is_recalled(harness):
    """Their threads come for it only when everything sent so far has arrived, also the recalls of it."""
    peers = [harness.join() for _ in range(7)]
    oids = [harness.new_oid() for _ in peers]
    pending = {peer: peer.client.allocate(3 * MIB // 2, oid) for peer, oid in zip(peers, oids, strict=True)}
    for each in pending.values():
        each.awaited = True
    values = []
    while pending:
        harness.settle()
        granted = [peer for peer, each in pending.items() if each.waiter.done]
        if not granted:
            harness.advance(max(0.0, harness.service.next_deadline() - harness.now))
        for peer in granted:
            found = peer.client.allocate(3 * MIB // 2, oids[peers.index(peer)])
            assert isinstance(found, Allocation), "what it was granted is gone"
            found.view[:] = bytes([peers.index(peer)]) * len(found.view)
            values.append((peers.index(peer), found.seal()))
            del pending[peer], found
    assert sorted(which for which, _ in values) == list(range(7))
    for which, value in values:
        assert harness.get(peers[0], oids[which], value) == bytes([which]) * (3 * MIB // 2)


def test_room_that_nobody_comes_for_any_more_is_recalled(harness):
    gone, other = harness.join(), harness.join()
    pending = gone.client.allocate(3 * MIB, harness.new_oid())
    pending.awaited = True
    harness.settle()
    assert pending.waiter.done
    late = other.client.allocate(3 * MIB, harness.new_oid())
    harness.run(1.0)
    assert not late.waiter.done and gone.client.held_bytes
    gone.client.forsake(pending)  # its thread was interrupted
    harness.settle()
    assert late.waiter.done and not late.error and not gone.client.held_bytes


def test_a_producer_knows_whether_the_store_is_full_or_the_node_has_not_answered(harness):
    peer, other = harness.join(), harness.join()
    oid, value = harness.put(peer, b"x" * (3 * MIB))
    view = peer.client.read(value, oid)
    for client, nbytes in ((other.client, 2 * MIB), (peer.client, 3 * MIB)):  # the second stands behind the first
        pending = client.allocate(nbytes, harness.new_oid())
        assert why_no_room(pending) is Cause.STORE_ASKED
        harness.settle()
        assert not pending.waiter.done and why_no_room(pending) is Cause.STORE_FULL
        assert "of 4,194,304 bytes are in use" in what_room(pending, nbytes)
    del view


def test_a_full_disk_is_an_error_for_producers_and_loses_nothing(harness):
    peer = harness.join()
    stored = [(*harness.put(peer, bytes([i]) * 600_000), bytes([i])) for i in range(6)]
    pending = peer.client.allocate(600_000, harness.new_oid())
    for _ in range(200):
        harness.advance(0.1)
        while peer.to_node:
            harness.step_to_node(peer)
        while peer.from_node:
            harness.step_from_node(peer)
        while harness.spiller.calls:
            harness.spiller.step("OSError: [Errno 28] No space left on device")
        while harness.loop:
            harness.loop.popleft()()
        if pending.waiter.done:
            break
    assert "No space left on device" in pending.error
    for oid, value, content in stored:
        assert bytes(peer.client.read(value, oid)[:1]) == content


def test_a_damaged_spill_file_is_a_lost_object_with_the_reason(harness):
    peer = harness.join()
    stored = [harness.put(peer, bytes([i]) * 500_000) for i in range(14)]
    for name in os.listdir(harness.spiller.files.directory):
        with open(os.path.join(harness.spiller.files.directory, name), "r+b") as file:
            file.seek(100_000)
            file.write(b"scribble")
    lost = [found for oid, value in stored if type(found := harness.get(peer, oid, value)) is list]
    assert lost
    for kind, name, _ in lost:
        assert kind == FAILED and name == "object_lost"


def test_dev_shm_full_is_a_clear_error_and_not_sigbus(harness, monkeypatch):
    peer = harness.join()
    first = harness.put(peer, b"x" * 1000)

    def full(start, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(harness.service.arena, "reserve", full)
    with pytest.raises(StoreFull, match="/dev/shm has .* bytes free"):
        harness.put(peer, b"y" * 2_000_000)
    assert harness.get(peer, *first) == b"x" * 1000


def test_idle_extents_come_back_under_pressure_from_many_processes():
    harness = Harness(capacity=4 * MIB, workers_max=64, extent_bytes=256 * 1024)
    try:
        peers = [harness.join() for _ in range(40)]
        for peer in peers:
            oid, value = harness.put(peer, b"x" * 200_000)
            peer.client.free(oid, value, False)
        harness.check()
        harness.put(peers[0], b"y" * 3 * MIB)
        harness.check()
    finally:
        harness.close()


def test_garbage_from_a_peer_is_counted_and_changes_nothing(harness):
    from zray.wire.messages import StoreFree, StoreRestore, StoreSurrender, StoreWant

    peer = harness.join()
    oid, value = harness.put(peer, b"x" * 1000)
    for message in (
        StoreFree([1, [], [b"", 3], [oid, -64, 5], [oid, 2**62, 1], [oid, value[1] + 1, value[3]], [[], {}, None]]),
        StoreSurrender(1, [[0], [value[1], 64], "x", [[], []], [-1, -1]]),
        StoreRestore(1, b"?", 2**60, 2**60), StoreRestore(2, b"", -5, -5), StoreWant(9, -3), StoreWant(9, 2**62),
    ):
        harness.service.handlers[message.CODE](peer.incarnation, message)
        harness.service.handlers[message.CODE](b"stranger", message)
    harness.settle()
    assert bytes(peer.client.read(value, oid)) == b"x" * 1000
    assert harness.service.table.counts["ignored"] > 0


def test_marks_are_read_after_the_process_is_gone(harness):
    peer = harness.join()
    peer.client.marks[0], peer.client.marks[1], peer.client.marks[2] = 7, 2**40, -1
    peer.client.marks[HOOK_MARK] = 1
    incarnation = peer.incarnation
    peer.client.marks.release()
    assert harness.service.slot_marks(incarnation) == (7, 2**40, -1, True)
    harness.kill(peer)
    assert harness.service.slot_marks(incarnation) == (0, 0, 0, False)


def test_ten_thousand_objects_are_pinned_at_once_and_a_full_table_copies(harness, monkeypatch):
    peer = harness.join()
    stored = [harness.put(peer, i.to_bytes(4, "big") * 4) for i in range(2000)]
    monkeypatch.setattr("zray.store.pins.PINS_MAX", 1024)
    views = [peer.client.read(value, oid) for oid, value in stored]
    assert [bytes(view[:4]) for view in views] == [i.to_bytes(4, "big") for i in range(2000)]
    assert peer.client.pin_table.count == 1024
    views.clear()
    assert peer.client.pin_table.count == 0


_READER = """
import sys, time
from zray.store.client import StoreClient
control, arena, slot, incarnation, seconds = sys.argv[1:]
client = StoreClient({"control": control, "arena": arena}, int(slot), bytes.fromhex(incarnation), lambda m: None)
print("up", flush=True)
start, reads = time.monotonic(), 0
words = client.words
# The header of block 0 names the object there now; pin it, check it, and see that its payload is of one piece.
while time.monotonic() - start < float(seconds) or reads < 10:
    word = words[1]
    if word & 255 != 2:
        continue
    view = client.read([1, 0, words[2], word >> 8], b"")
    if view is not None:
        first = view[0]
        assert view == bytes([first]) * view.nbytes, "the payload changed under a pin"
        reads += 1
        del view
        if reads <= 10:
            print("read", flush=True)
print(reads)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to race")
def test_two_processes_race_for_one_block_and_no_view_ever_changes():
    harness = Harness()
    try:
        maker = harness.join()
        incarnation = b"reader01"
        slot = harness.service.open_slot(incarnation, 0)
        harness.peers[incarnation] = maker  # it gets no messages
        attach = harness.service.attach_info()
        reader = subprocess.Popen(
            [sys.executable, "-c", _READER, attach["control"], attach["arena"], str(slot), incarnation.hex(), "1.5"],
            stdout=subprocess.PIPE, text=True)
        assert reader.stdout.readline() == "up\n"
        rounds = waited = 0
        while reader.poll() is None:
            oid, value = harness.put(maker, bytes([rounds % 251]) * 3000)
            assert value[1] == 0 and harness.service.headers.read(0).state == SEALED
            if rounds % 10 == 0 and waited < 10:  # a busy machine may run the two in turns that never meet
                assert reader.stdout.readline() == "read\n"
                waited += 1
            maker.client.free(oid, value, True)
            until = time.monotonic() + EVICTION_GRACE_S
            maker.client.flush()
            while maker.to_node:
                harness.step_to_node(maker)
            while time.monotonic() < until:
                pass  # the grace is real time here: it is what the protocol rests on
            for _ in range(1000):
                harness.advance(1.0)
                harness.settle()
                if 0 not in maker.client.heap.used:
                    break
            rounds += 1
        reads = int(reader.stdout.read().split()[-1])
        reader.stdout.close()
        assert reader.returncode == 0 and reads >= 10 and rounds > 10
        del harness.peers[incarnation]
        harness.service.close_slot(incarnation)
        harness.check()
    finally:
        harness.close()


def test_threads_that_want_the_same_each_have_a_waiter_of_their_own(harness):
    """One request is sent, and its answer wakes all of them: a waiter with two threads would wake one."""
    peer = harness.join()
    first = peer.client.allocate(1000, harness.new_oid())
    second = peer.client.allocate(1000, harness.new_oid())
    assert len(peer.to_node) == 1
    assert first.waiter is not second.waiter
    harness.settle()
    assert first.waiter.done and second.waiter.done


# ---------------------------------------------------------------- what does not fit into memory


@pytest.fixture
def overflowing():
    harness = Harness(overflow_bytes=64 * MIB)
    yield harness
    harness.close()


def on_disk(harness) -> int:
    """Bytes of the disk that the overflow file takes."""
    return os.fstat(harness.service.overflow_fd).st_blocks * 512


def test_an_object_larger_than_the_store_lies_in_a_file_and_is_read_in_place(overflowing):
    peer, other = overflowing.join(), overflowing.join()
    content = bytes(range(256)) * (9 * MIB // 256)
    oid, value = overflowing.put(peer, content)
    assert overflowing.get(peer, oid, value) == content and peer.client.there(value, oid)
    assert other.client.read(value, oid) == content
    assert on_disk(overflowing) >= len(content)
    overflowing.check()


def test_a_freed_object_gives_its_disk_back(overflowing):
    peer = overflowing.join()
    stored = [overflowing.put(peer, bytes([i]) * (6 * MIB)) for i in range(3)]
    for oid, value in stored:
        peer.client.free(oid, value, True)
    overflowing.run(30.0)
    overflowing.kill(peer)
    overflowing.run(1.0)
    overflowing.check()
    assert on_disk(overflowing) < MIB and overflowing.service.report()["overflow"] == 0


def test_disk_of_freed_objects_does_not_add_up(overflowing):
    peer = overflowing.join()
    for size in range(5, 12):
        oid, value = overflowing.put(peer, bytes([size]) * (size * MIB))
        assert overflowing.service.report()["overflow"] < (size + 1) * MIB
        peer.client.free(oid, value, False)
    overflowing.check()


def full_file(harness):
    """Peers with an object each; together they leave less than 10 MiB of the file."""
    peers = [harness.join() for _ in range(6)]
    return peers, [harness.put(peer, b"x" * (9 * MIB)) for peer in peers]


def test_a_full_file_is_emptied_of_what_was_freed_before_a_request_is_refused(overflowing):
    peers, stored = full_file(overflowing)
    for peer, (oid, value) in zip(peers, stored, strict=True):
        peer.client.free(oid, value, False)
    overflowing.settle()
    peer = overflowing.join()
    assert overflowing.get(peer, *overflowing.put(peer, b"y" * (20 * MIB))) == b"y" * (20 * MIB)
    assert overflowing.now < overflowing.service.table.room.full_wait_s
    overflowing.check()


def test_a_full_disk_is_emptied_of_what_was_freed_before_a_request_is_refused(overflowing):
    peer, other = overflowing.join(), overflowing.join()
    oid, value = overflowing.put(peer, b"x" * (6 * MIB))
    found = other.client.allocate(7 * MIB, overflowing.new_oid())
    overflowing.step_to_node(other)
    overflowing.spiller.step("OSError: [Errno 28] No space left on device")
    overflowing.settle()
    assert not found.waiter.done and "overflow file" in what_room(found, 7 * MIB)
    peer.client.free(oid, value, False)
    overflowing.run(1.0)
    assert found.waiter.done and not found.error
    overflowing.check()


def test_a_file_full_of_live_objects_is_an_error_in_time(overflowing):
    peers, stored = full_file(overflowing)
    peer = overflowing.join()
    with pytest.raises(StoreFull, match="the overflow file has .* bytes in use"):
        overflowing.put(peer, b"y" * (20 * MIB))
    assert overflowing.now >= overflowing.service.table.room.full_wait_s
    for oid, value in stored:
        assert overflowing.get(peer, oid, value) == b"x" * (9 * MIB)
    overflowing.check()


def test_requests_for_the_disk_end_with_their_processes(overflowing):
    full_file(overflowing)
    peer = overflowing.join()
    peer.client.allocate(20 * MIB, overflowing.new_oid())
    overflowing.settle()
    assert overflowing.service.table.room.for_disk
    overflowing.kill(peer)
    assert not overflowing.service.table.room.for_disk
    overflowing.run(20.0)
    overflowing.check()


def test_pinned_objects_do_not_keep_others_out(overflowing):
    peer = overflowing.join()
    views = []
    for i in range(16):
        oid, value = overflowing.put(peer, bytes([i]) * 500_000)
        views.append(peer.client.read(value, oid))
    assert [bytes(view[:1])[0] for view in views] == list(range(16))
    assert overflowing.service.report()["overflow"] > 0


def test_a_full_disk_is_an_error_that_says_so_and_the_next_try_may_succeed(overflowing):
    peer = overflowing.join()
    found = peer.client.allocate(6 * MIB, overflowing.new_oid())
    while peer.to_node:
        overflowing.step_to_node(peer)
    overflowing.spiller.step("OSError: [Errno 28] No space left on device")
    overflowing.settle()
    assert found.waiter.done and found.report["disk_full"]
    with pytest.raises(StoreFull, match="No space left"):
        peer.client.allocate(6 * MIB, overflowing.new_oid())
    overflowing.put(peer, b"x" * (6 * MIB))
    overflowing.check()
