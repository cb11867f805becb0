"""util.iter: shards in actors, transformed there and gathered here."""

from __future__ import annotations

import importlib
import os

import pytest

from tests.e2e.target import IS_ZRAY, TARGET, ray

shards = importlib.import_module(f"{TARGET}.util.iter")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_sources_and_how_they_are_gathered(cluster):
    assert sorted(shards.from_items(["a", "b", "c"], num_shards=2).gather_sync()) == ["a", "b", "c"]
    numbers = shards.from_range(6, num_shards=2)
    assert numbers.num_shards() == 2 and list(numbers.gather_sync()) == [0, 3, 1, 4, 2, 5]
    assert sorted(numbers.gather_async(batch_ms=5, num_async=2)) == list(range(6)) == sorted(numbers.gather_async())
    assert list(numbers.batch_across_shards()) == [[0, 3], [1, 4], [2, 5]]
    assert [list(shard) for shard in numbers.shards()] == [[0, 1, 2], [3, 4, 5]]
    assert numbers.take(3) == [0, 3, 1] and list(numbers.get_shard(1)) == [3, 4, 5]
    assert shards.from_iterators([range(2), lambda: iter("xy")]).take(9) == [0, "x", 1, "y"]
    assert shards.from_range(2, num_shards=1, repeat=True).take(5) == [0, 1, 0, 1, 0]
    with pytest.raises(TypeError, match="gather_sync"):
        iter(numbers)


def test_transformations_run_where_the_shard_is(cluster):
    numbers = shards.from_range(8, num_shards=2)
    assert os.getpid() not in set(numbers.for_each(lambda _: os.getpid()).gather_sync())
    assert sorted(numbers.for_each(lambda n: n * 2).filter(lambda n: n % 4 == 0).gather_sync()) == [0, 4, 8, 12]
    assert list(numbers.batch(3).get_shard(0)) == [[0, 1, 2], [3]]
    assert sorted(numbers.batch(2).flatten().gather_sync()) == sorted(numbers.combine(lambda n: [n]).gather_sync())
    assert sorted(numbers.local_shuffle(3, seed=1).gather_sync()) == list(range(8))
    assert sorted(numbers.transform(lambda items: (n + 1 for n in items)).gather_sync()) == list(range(1, 9))
    assert sorted(numbers.union(shards.from_items([9], num_shards=1)).gather_sync()) == [*range(8), 9]
    assert list(numbers.select_shards([1]).gather_sync()) == [4, 5, 6, 7]
    assert sorted(numbers.repartition(3).gather_sync()) == list(range(8))


@pytest.mark.zray_only
def test_by_tasks_and_errors(cluster):
    numbers = shards.from_range(6, num_shards=1)
    assert list(numbers.for_each(abs, max_concurrency=2).gather_sync()) == list(range(6))
    with pytest.raises(ZeroDivisionError):
        list(numbers.for_each(lambda n: 1 // n).gather_sync())
    for wrong in (lambda: numbers.batch(0), lambda: numbers.repartition(0), lambda: shards.from_range(2, num_shards=0),
                  lambda: numbers.gather_async(num_async=0), lambda: numbers.local_shuffle(0)):
        with pytest.raises(ValueError, match="at least 1"):
            wrong()


def test_local_iterators(cluster, capsys):
    local = shards.from_range(4, num_shards=1).gather_sync()
    assert list(local.for_each(lambda n: -n).filter(bool).batch(2)) == [[-1, -2], [-3]]
    assert sorted(local.shuffle(2, seed=3)) == [0, 1, 2, 3] and next(local) == 0
    assert sorted(local.union(shards.from_items([7], num_shards=1).gather_sync())) == [0, 1, 2, 3, 7]
    local.show(2)
    assert capsys.readouterr().out == "0\n1\n"


@pytest.mark.zray_only
def test_copies_of_an_iterator_go_their_own_way(cluster):
    one, two = shards.from_range(4, num_shards=1).gather_sync().duplicate(2)
    assert list(one) == list(two) == [0, 1, 2, 3]


def test_actors_of_a_program_are_shards(cluster):
    @ray.remote(num_cpus=0)
    class Letters(shards.ParallelIteratorWorker):
        def __init__(self, text):
            super().__init__(list(text), repeat=False)

    found = shards.from_actors([Letters.remote("ab"), Letters.remote("c")])
    assert sorted(found.gather_sync()) == ["a", "b", "c"]


@pytest.mark.skipif(not IS_ZRAY, reason="makes the iterators itself")
def test_a_union_takes_as_many_items_of_each_iterator_as_its_weights_say():
    def of(*items):
        return shards.LocalIterator(lambda: list(items))

    assert list(of(1, 2, 3).union(of(7, 8), deterministic=True)) == [1, 7, 2, 8, 3]
    assert list(of(1, 2, 3).union(of(7, 8, 9), round_robin_weights=[2, 1])) == [1, 2, 7, 3, 8, 9]
    assert list(of(1, 2).union(of(7, 8, 9), of(5), round_robin_weights=[1, "*", 1])) == [1, 7, 8, 9, 5, 2]
    with pytest.raises(ValueError, match="union of 2 iterators takes as many round_robin_weights, not 1"):
        of(1).union(of(2), round_robin_weights=[1])
