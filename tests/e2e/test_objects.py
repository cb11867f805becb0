"""Objects and references: put, get, zero copy, lifetime, identity."""

from __future__ import annotations

import gc
import pickle
import threading

import numpy as np
import pytest

from tests.e2e.target import IS_ZRAY, exceptions, ray, until


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


class Point:
    """Pickled by reference."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


@pytest.mark.parametrize("value", [
    None, True, 0, -(2**100), 1.5, "text", b"bytes", b"b" * 1_000_000, (1, [2, {3: {4}}]), {"a": None}, Point(3),
    list(range(50_000)), bytearray(b"12"), 1 + 2j, range(3), float("inf"),
], ids=lambda v: type(v).__name__)
def test_put_then_get_gives_an_equal_value(value):
    assert ray.get(ray.put(value)) == value


def test_get_of_a_list_keeps_order_and_duplicates():
    a, b = ray.put("a"), ray.put("b")
    assert ray.get([b, a, b]) == ["b", "a", "b"]
    assert ray.get([]) == []


def test_large_arrays_are_read_only_and_share_memory():
    ref = ray.put(np.arange(1_000_000))
    one, two = ray.get(ref), ray.get(ref)
    assert np.array_equal(one, np.arange(1_000_000))
    assert not one.flags.writeable
    assert np.shares_memory(one, two)
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1


def test_a_view_keeps_its_object_alive_after_the_reference_is_gone():
    ref = ray.put(np.full(500_000, 7))
    view = ray.get(ref)[1000:2000]
    del ref
    gc.collect()
    for _ in range(20):
        ray.get(ray.put(np.zeros(500_000, dtype=np.int64)))
    assert (view == 7).all()


def test_a_mutated_value_does_not_change_what_was_put():
    value = [1, 2]
    ref = ray.put(value)
    value.append(3)
    ray.get(ref).append(4)
    assert ray.get(ref) == [1, 2]


def test_put_of_a_reference_is_refused():
    with pytest.raises(TypeError):
        ray.put(ray.put(1))


@pytest.mark.parametrize("wrong", [1, "ref", None, [1], {"a": 1}])
def test_get_of_something_that_is_not_a_reference_is_refused(wrong):
    with pytest.raises((TypeError, ValueError)):
        ray.get(wrong)


def test_references_have_ids_and_are_hashable():
    ref = ray.put(1)
    assert len(ref.hex()) == 56
    assert ref.binary().hex() == ref.hex()
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert {ref: 1}[ref] == 1
    assert ref == ref
    assert ref != ray.put(1)


def test_references_inside_values_can_be_fetched_by_whoever_gets_them():
    @ray.remote
    def open_box(box):
        return ray.get(box["inner"])[0]

    inner = ray.put(["treasure"])
    assert ray.get(open_box.remote({"inner": inner})) == "treasure"
    outer = ray.put([inner])
    del inner
    gc.collect()
    assert ray.get(ray.get(outer)[0]) == ["treasure"]


def test_a_reference_kept_by_an_actor_outlives_the_callers():
    @ray.remote
    class Keeper:
        def keep(self, box):
            self.ref = box[0]

        def read(self):
            return int(ray.get(self.ref).sum())

    keeper = Keeper.remote()
    ref = ray.put(np.ones(200_000, dtype=np.int64))
    ray.get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    for _ in range(20):
        ray.put(np.zeros(200_000, dtype=np.int64))
    assert ray.get(keeper.read.remote()) == 200_000


def test_a_task_may_put_and_return_the_reference():
    @ray.remote
    def make():
        return ray.put(np.arange(100_000))

    assert int(ray.get(ray.get(make.remote()))[-1]) == 99_999


def test_get_times_out_with_the_first_words_people_search_for(gate):
    @ray.remote
    def wait():
        gate.wait()

    ref = wait.remote()
    gate.wait_arrived()
    with pytest.raises(exceptions.GetTimeoutError, match="Get timed out: some object"):
        ray.get(ref, timeout=0.05)
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0)
    gate.open()
    assert ray.get(ref, timeout=30) is None


def test_thirty_two_threads_get_at_once():
    @ray.remote
    def square(x):
        return x * x

    results = {}

    def caller(n):
        results[n] = [ray.get(square.remote(n * 100 + i)) for i in range(20)]

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: [(n * 100 + i) ** 2 for i in range(20)] for n in range(32)}


@pytest.mark.skipif(not IS_ZRAY, reason="Ray needs its own serializer context here")
def test_a_reference_pickled_by_hand_still_works_while_it_is_held():
    ref = ray.put([1, 2])
    assert ray.get(pickle.loads(pickle.dumps(ref))) == [1, 2]


def test_future_gives_a_concurrent_future():
    assert ray.put(5).future().result(timeout=30) == 5


def test_objects_that_go_out_of_scope_give_their_memory_back():
    """More bytes than the store could hold at once, one after the other."""
    block = np.ones(4_000_000, dtype=np.uint8)
    for _ in range(200):
        ray.get(ray.put(block))


@pytest.mark.zray_only
def test_inline_values_beyond_the_cap_of_the_table_move_to_the_store(fresh):
    from zray.core import runtime

    ray.init(num_cpus=1, _system_config={"inline_table_bytes_max": 1_000_000})

    @ray.remote
    def block(i):
        return bytes([i]) * 50_000

    refs = [block.remote(i) for i in range(60)]
    ray.wait(refs, num_returns=60)
    puts = [ray.put(bytes([i]) * 50_000) for i in range(60)]
    values = ray.get(refs) + ray.get(puts)
    assert [value[0] for value in values] == [*range(60), *range(60)] and {len(value) for value in values} == {50_000}
    held = runtime.current()
    until(lambda: ray.get(block.remote(0)) and held.refs.inline_bytes <= 1_200_000, "inline bytes are below the cap")
    held.check()


@pytest.mark.zray_only
def test_the_locations_of_objects_are_known():
    @ray.remote(num_cpus=1000)
    def never():
        pass

    stored, small, pending = ray.put(bytes(1_000_000)), ray.put(1), never.remote()
    found = ray.experimental.get_object_locations([stored, small, pending])
    assert found[stored]["node_ids"] == [ray.nodes()[0]["NodeID"]]
    assert found[stored]["object_size"] >= 1_000_000 and found[stored]["did_spill"] is False
    assert found[small]["node_ids"] == found[stored]["node_ids"] and found[small]["object_size"] > 0
    assert found[pending] == {"node_ids": [], "object_size": None, "did_spill": False}
    assert ray.experimental.get_local_object_locations([stored, small, pending]) == found
    with pytest.raises(TypeError):
        ray.experimental.get_object_locations([stored, 3])
    ray.cancel(pending, force=True)


@pytest.mark.zray_only
def test_locations_do_not_start_a_session(fresh):
    with pytest.raises(RuntimeError, match="init"):
        ray.experimental.get_object_locations([])
    assert not ray.is_initialized()


OUT_OF_BAND = "RAY_allow_out_of_band_object_ref_serialization"


def test_references_may_be_kept_out_of_functions_and_pickles(fresh, monkeypatch):
    monkeypatch.setenv(OUT_OF_BAND, "0")
    ray.init(num_cpus=1)
    ref = ray.put(1)

    @ray.remote
    def captures():
        return ray.get(ref)

    @ray.remote
    def pickles(box):
        return ray.cloudpickle.dumps(box)

    with pytest.raises(exceptions.OufOfBandObjectRefSerializationException):
        ray.get(captures.remote())
    with pytest.raises(exceptions.OufOfBandObjectRefSerializationException):
        ray.get(pickles.remote([ref]))
    assert ray.get(ray.get(ray.put([ref]))) == [1]
