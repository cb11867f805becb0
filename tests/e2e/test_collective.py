"""util.collective: groups of actors and their operations on numpy arrays."""

from __future__ import annotations

import os

import numpy as np
import pytest

import zray as ray
from zray.util import collective
from zray.util.collective import ReduceOp

pytestmark = pytest.mark.zray_only
RANKS = 3
LARGE = 40_001  # float64: larger than what travels in messages, and not divisible by RANKS


@ray.remote(num_cpus=0)
class Rank:
    def init(self, rank, name="default", size=RANKS, timeout_ms=30000):
        collective.init_collective_group(size, rank, "gloo", name, gloo_timeout=timeout_ms)
        return collective.get_rank(name), collective.get_collective_group_size(name)

    def call(self, operation, *args, **options):
        """Do it; the arrays after that."""
        args = [_own(arg) for arg in args]
        getattr(collective, operation)(*args, **options)
        return args

    def destroy(self, name="default"):
        collective.destroy_collective_group(name)
        return collective.get_rank(name)


    def end(self):
        os._exit(1)

    def torch_results(self, rank):
        """An allreduce and a broadcast of torch tensors, in place."""
        import torch

        tensor, part = torch.full((2, 3), float(rank + 1)), torch.zeros(3, 4).t()
        collective.allreduce(tensor)
        part += rank
        collective.broadcast(part, 1)
        with pytest.raises(ValueError, match="bfloat16"):
            collective.allreduce(torch.zeros(2, dtype=torch.bfloat16))
        return tensor.tolist(), part.tolist()


def _own(arg):
    return arg.copy() if isinstance(arg, np.ndarray) else [_own(each) for each in arg] if isinstance(arg, list) else arg


@pytest.fixture(scope="module")
def made(module_footprint):
    if not ray.is_initialized():
        ray.init(num_cpus=4)
    ranks = [Rank.remote() for _ in range(RANKS)]
    assert ray.get([actor.init.remote(rank) for rank, actor in enumerate(ranks)]) == [(r, RANKS) for r in range(RANKS)]
    return ranks


@pytest.fixture
def ranks(made, cluster):
    return made


def _all(ranks, operation, arguments, **options):
    """Each rank calls the operation with its arguments; the arrays after that, by rank."""
    calls = [actor.call.remote(operation, *args, **options) for actor, args in zip(ranks, arguments)]
    return ray.get(calls, timeout=60)


def _arrays(size, dtype=float):
    return [np.random.default_rng(rank).integers(1, 9, size).astype(dtype) for rank in range(RANKS)]


@pytest.mark.parametrize("size", [5, (2, 3), LARGE])
@pytest.mark.parametrize("op", list(ReduceOp))
def test_allreduce_combines_on_every_rank(ranks, size, op):
    arrays = _arrays(size)
    combine = {ReduceOp.SUM: np.sum, ReduceOp.PRODUCT: np.prod, ReduceOp.MIN: np.min, ReduceOp.MAX: np.max}[op]
    found = [array for (array,) in _all(ranks, "allreduce", [(array,) for array in arrays], op=op)]
    assert all(np.array_equal(array, combine(arrays, axis=0)) for array in found)


@pytest.mark.parametrize("size", [4, LARGE])
def test_one_rank_gives_or_gets(ranks, size):
    arrays = _arrays(size, np.float32)
    after = [a for (a, *_) in _all(ranks, "broadcast", [(array,) for array in arrays], src_rank=1)]
    assert all(np.array_equal(array, arrays[1]) for array in after)
    after = [a for (a, *_) in _all(ranks, "reduce", [(array,) for array in arrays], dst_rank=2)]
    assert np.array_equal(after[2], sum(arrays)) and np.array_equal(after[0], arrays[0])


@pytest.mark.parametrize("size", [4, LARGE])
def test_gather_and_scatter(ranks, size):
    arrays = _arrays(size, np.int64)
    empty = [np.zeros(size, np.int64) for _ in range(RANKS)]
    for gathered, own in _all(ranks, "allgather", [(empty, array) for array in arrays]):
        assert all(np.array_equal(one, other) for one, other in zip(gathered, arrays))
        assert any(np.array_equal(own, array) for array in arrays)
    lists = [_arrays(size, np.int64) for _ in range(RANKS)]
    found = _all(ranks, "reducescatter", [(empty[0], each) for each in lists])
    assert all(np.array_equal(into, sum(each[rank] for each in lists)) for rank, (into, _) in enumerate(found))


@pytest.mark.parametrize("size", [4, LARGE])
def test_send_and_receive(ranks, size):
    (first, second, _), empty = _arrays(size), np.zeros(size)
    one, two = ray.get([ranks[0].call.remote("send", first, 1), ranks[1].call.remote("recv", empty, 0)], timeout=60)
    assert np.array_equal(two[0], first) and one[1] == 1
    _, back = ray.get([ranks[1].call.remote("send", second, 0), ranks[0].call.remote("recv", empty, 1)], timeout=60)
    assert np.array_equal(back[0], second)
    assert ray.get([actor.call.remote("barrier") for actor in ranks], timeout=60) == [[]] * RANKS


def test_arrays_without_dimensions_take_part(ranks):
    arrays = [np.array(value) for value in (1.0, 2.0, 4.0)]
    assert [array.item() for (array,) in _all(ranks, "allreduce", [(array,) for array in arrays])] == [7.0] * RANKS
    lists = [[np.array(float(10 * to + rank)) for to in range(RANKS)] for rank in range(RANKS)]
    found = _all(ranks, "reducescatter", [(np.array(0.0), each) for each in lists])
    assert [into.item() for into, _ in found] == [3.0, 33.0, 63.0]
    empty = [np.array(0.0) for _ in range(RANKS)]
    for gathered, _ in _all(ranks, "allgather", [(empty, array) for array in arrays]):
        assert gathered == [1.0, 2.0, 4.0] and all(array.shape == () for array in gathered)


def test_a_wrong_call_says_so_and_the_group_goes_on(ranks):
    for call, error, words in (
            (("send", np.zeros(2), 0), RuntimeError, "is self"), (("recv", np.zeros(2), 9), ValueError, "rank 9"),
            (("allgather", [np.zeros(2)], np.zeros(2)), RuntimeError, "must be equal to world_size"),
            (("allreduce", "text"), ValueError, "Unrecognized tensor type"),
            (("allreduce", np.array([None])), ValueError, "Python objects"),
            (("init_collective_group", 3, 0), RuntimeError, "twice"),
            (("allreduce", np.zeros(2), "elsewhere"), RuntimeError, "not initialized in the process"),
            (("allreduce_multigpu", [np.zeros(2)]), NotImplementedError, "several GPUs"),
            (("barrier", ""), ValueError, "group_name")):
        with pytest.raises(error, match=words):
            ray.get(ranks[0].call.remote(*call), timeout=60)
    with pytest.raises(RuntimeError, match="sends float64 2, rank 1 receives float64 3"):
        ray.get([ranks[0].call.remote("send", np.zeros(2), 1), ranks[1].call.remote("recv", np.zeros(3), 0)],
                timeout=60)
    ray.wait([actor.call.remote("barrier") for actor in ranks], num_returns=RANKS, timeout=60)
    for wrong in ((0, 0), (2, 2), (2, -1)):
        with pytest.raises(ValueError):
            collective.init_collective_group(*wrong)
    with pytest.raises(ValueError, match="NCCL is not supported"):
        collective.init_collective_group(1, 0, "nccl")
    assert collective.get_rank() == -1 and not collective.is_group_initialized("default")
    assert not collective.nccl_available() and collective.is_backend_available("gloo")
    value = ray.get(ray.put(np.zeros(100_000)))
    collective.init_collective_group(1, 0, group_name="alone")
    with pytest.raises(ValueError, match="read-only"):
        collective.allreduce(value, "alone")
    collective.destroy_collective_group("alone")


def test_ranks_that_disagree_or_do_not_come_are_named(ranks):
    ray.get([actor.init.remote(rank, "strict") for rank, actor in enumerate(ranks)], timeout=60)
    calls = [ranks[0].call.remote("barrier", "strict"), ranks[1].call.remote("allreduce", np.zeros(2), "strict"),
             ranks[2].call.remote("allreduce", np.zeros(3), "strict")]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"different calls: rank 0: barrier\(\); rank 1: allreduce\(float64 2"):
            ray.get(call, timeout=60)
    assert ray.get([actor.destroy.remote("strict") for actor in ranks], timeout=60) == [-1] * RANKS
    # The name is free again.
    ray.get([actor.init.remote(rank, "strict", timeout_ms=1000) for rank, actor in enumerate(ranks)], timeout=60)
    with pytest.raises(RuntimeError, match="rank 1, 2 of the group 'strict' did not call barrier within 1 s"):
        ray.get(ranks[0].call.remote("barrier", "strict"), timeout=60)
    ray.get([actor.destroy.remote("strict") for actor in ranks], timeout=60)


def test_the_name_of_a_group_that_did_not_come_together_is_free(ranks):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="rank 1 of the group 'late' did not call init_collective_group within"):
            ray.get(ranks[2].init.remote(0, "late", 2, timeout_ms=50), timeout=60)
    made = [actor.init.remote(rank, "late", 2) for rank, actor in enumerate(ranks[:2])]
    assert ray.get(made, timeout=60) == [(0, 2), (1, 2)]
    ray.get([actor.destroy.remote("late") for actor in ranks[:2]], timeout=60)


def test_a_driver_declares_the_ranks_of_its_actors(ranks):
    for wrong in (([0], 1), ([0, 1, 1], 3), ([0, 1, 2], 4)):
        with pytest.raises(RuntimeError):
            collective.create_collective_group(ranks, wrong[1], wrong[0], "gloo", "declared")
    collective.create_collective_group(ranks, RANKS, [2, 0, 1], "gloo", "declared")
    with pytest.raises(RuntimeError, match="twice"):
        collective.create_collective_group(ranks, RANKS, [0, 1, 2], "gloo", "declared")
    arrays = _arrays(6)
    found = _all(ranks, "broadcast", [(array,) for array in arrays], src_rank=2, group_name="declared")
    assert all(np.array_equal(array, arrays[0]) for (array,) in found)
    collective.destroy_collective_group("declared")
    with pytest.raises(RuntimeError, match="destroyed"):
        ray.get(ranks[0].call.remote("barrier", "declared"), timeout=60)


@pytest.mark.parametrize("dies", range(RANKS))
def test_a_rank_that_dies_is_named_at_once_and_the_name_is_free_again(cluster, dies):
    ranks = [Rank.remote() for _ in range(RANKS)]
    ray.get([actor.init.remote(rank, "mortal", timeout_ms=600_000) for rank, actor in enumerate(ranks)], timeout=60)
    left = [actor for rank, actor in enumerate(ranks) if rank != dies]
    calls = [actor.call.remote("barrier", "mortal") for actor in left]
    ranks[dies].end.remote()
    for call in [*calls, left[0].call.remote("allreduce", np.zeros(2), "mortal")]:
        with pytest.raises(RuntimeError, match=f"rank {dies} of the group 'mortal' has died"):
            ray.get(call, timeout=60)
    ray.get([actor.destroy.remote("mortal") for actor in left], timeout=60)
    made = [actor.init.remote(rank, "mortal", RANKS - 1) for rank, actor in enumerate(left)]
    assert ray.get(made, timeout=60) == [(rank, RANKS - 1) for rank in range(RANKS - 1)]
    ray.get([actor.destroy.remote("mortal") for actor in left], timeout=60)


@pytest.mark.parametrize("has_joined", [True, False])
def test_a_declared_rank_that_dies_is_named_at_once(cluster, gate, has_joined):
    ranks = [Rank.remote() for _ in range(2)]
    blocked = None
    if not has_joined:
        blocked = ranks[1].__ray_call__.remote(lambda _: gate.wait())
        gate.wait_arrived(1)
    collective.create_collective_group(ranks, 2, [0, 1], "gloo", "declared", gloo_timeout=600_000)
    call = ranks[0].call.remote("barrier", "declared")
    ray.kill(ranks[1]) if blocked else ranks[1].end.remote()
    with pytest.raises(RuntimeError, match="rank 1 of the group 'declared' has died"):
        ray.get(call, timeout=60)
    collective.destroy_collective_group("declared")


def test_torch_tensors_take_part_in_place(ranks):
    pytest.importorskip("torch", reason="torch is not installed")
    for tensor, part in ray.get([actor.torch_results.remote(rank) for rank, actor in enumerate(ranks)], timeout=60):
        assert tensor == [[6.0] * 3] * 2 and part == [[1.0] * 3] * 4


def test_groups_end_with_the_session_and_their_names_are_free_in_the_next(fresh):
    for _ in range(2):
        ray.init(num_cpus=1)
        collective.init_collective_group(1, 0, group_name="mine")
        collective.barrier("mine")
        collective.create_collective_group([ray.remote(type("Rank", (), {})).remote()], 1, [0], group_name="theirs")
        assert collective.is_group_initialized("mine")
        ray.shutdown()
        assert not collective.is_group_initialized("mine")
    with pytest.raises(RuntimeError, match="'mine' is not initialized in the process"):
        collective.barrier("mine")
    collective.destroy_collective_group("mine")
    assert not ray.is_initialized()
