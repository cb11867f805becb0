"""Iterators over shards that live in actors, at Ray's names.  Ray deprecates them: new programs use datasets.

    for value in from_range(100, num_shards=4).for_each(double).gather_sync():

A ParallelIterator is a plan: shards, and transformations that run where the shard is.  ``gather_sync`` and
``gather_async`` start it, and give a LocalIterator in the calling process.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle, islice
from typing import Any

from zray.api.calls import get, remote, wait
from zray.handles.refs import ObjectRef

__all__ = ["LocalIterator", "ParallelIterator", "ParallelIteratorWorker", "from_actors", "from_items", "from_iterators",
           "from_range"]

Transform = Callable[[Iterable[Any]], Iterable[Any]]


# ---------------------------------------------------------------- transformations, the same here and in actors


def _for_each(fn: Callable[[Any], Any]) -> Transform:
    return lambda items: map(fn, items)


def _filter(fn: Callable[[Any], bool]) -> Transform:
    return lambda items: filter(fn, items)


def _batch(count: int) -> Transform:
    if count < 1:
        raise ValueError(f"a batch has at least 1 item, not {count}")

    def batches(items: Iterable[Any]) -> Iterator[list[Any]]:
        iterator = iter(items)
        while found := list(islice(iterator, count)):
            yield found

    return batches


def _flatten(items: Iterable[Any]) -> Iterable[Any]:
    return chain.from_iterable(items)


def _shuffle(size: int, seed: int | None) -> Transform:
    if size < 1:
        raise ValueError(f"a shuffle buffer has at least 1 item, not {size}")

    def shuffled(items: Iterable[Any]) -> Iterator[Any]:
        draw = random.Random(seed)
        held: list[Any] = []
        for item in items:
            held.append(item)
            if len(held) >= size:
                yield held.pop(draw.randrange(len(held)))
        draw.shuffle(held)
        yield from held

    return shuffled


class _Transformable:
    """The transformations that both kinds of iterators have."""

    def transform(self, fn: Transform) -> Any:
        """Apply a function from an iterable to an iterable."""
        raise NotImplementedError

    def for_each(self, fn: Callable[[Any], Any], max_concurrency: int = 1, resources: dict | None = None) -> Any:
        """Apply ``fn`` to each item; with ``max_concurrency`` > 1 by so many tasks at a time, in order."""
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        if max_concurrency == 1 and not resources:
            return self.transform(_for_each(fn))

        def by_tasks(items: Iterable[Any]) -> Iterator[Any]:
            task: Any = remote(fn)
            task = task.options(**(resources or {}))
            running: deque[ObjectRef] = deque()
            for item in items:
                running.append(task.remote(item))
                if len(running) >= max_concurrency:
                    yield get(running.popleft())
            while running:
                yield get(running.popleft())

        return self.transform(by_tasks)

    def filter(self, fn: Callable[[Any], bool]) -> Any:
        """Keep the items for which ``fn`` is true."""
        return self.transform(_filter(fn))

    def batch(self, n: int) -> Any:
        """Lists of ``n`` items; the last may be shorter."""
        return self.transform(_batch(n))

    def flatten(self) -> Any:
        """The items of items that are iterable."""
        return self.transform(_flatten)

    def combine(self, fn: Callable[[Any], Iterable[Any]]) -> Any:
        """The items of the lists that ``fn`` makes of each item."""
        return self.for_each(fn).flatten()


# ---------------------------------------------------------------- shards


class ParallelIteratorWorker:
    """Base of actors that are shards: ``from_actors`` takes actors of its subclasses.

    item_generator: an iterable, or a function that makes one; with ``repeat`` it starts again at its end.
    """

    def __init__(self, item_generator: Any, repeat: bool):
        self._source = item_generator
        self._repeat = repeat
        self._items: Iterator[Any] | None = None
        self._slices: dict[int, deque[Any]] = {}
        self._count = 0

    def par_iter_init(self, transforms: list[Transform]) -> None:
        """Begin at the first item."""
        items: Iterable[Any] = self._again() if self._repeat else self._once()
        for transform in transforms:
            items = transform(items)
        self._items = iter(items)
        self._slices = {}
        self._count = 0

    def _once(self) -> Iterable[Any]:
        return self._source() if callable(self._source) else iter(self._source)

    def _again(self) -> Iterator[Any]:
        if not callable(self._source):
            yield from cycle(self._source)
            return
        while True:
            yield from self._source()

    def par_iter_next_batch(self, batch_ms: int) -> tuple[list[Any], bool]:
        """One item, or those of ``batch_ms`` milliseconds; whether that was the end."""
        return self._batch(self._next, batch_ms)

    def par_iter_slice_batch(self, step: int, start: int, batch_ms: int) -> tuple[list[Any], bool]:
        """The same of the items number ``start``, ``start + step``, ..."""
        return self._batch(lambda: self._next_of(step, start), batch_ms)

    @staticmethod
    def _batch(take: Callable[[], Any], batch_ms: int) -> tuple[list[Any], bool]:
        end = time.monotonic() + batch_ms / 1000
        found: list[Any] = []
        while not found or time.monotonic() < end:
            try:
                found.append(take())
            except StopIteration:
                return found, True
        return found, False

    def _next(self) -> Any:
        if self._items is None:
            raise RuntimeError("par_iter_init() was not called")
        return next(self._items)

    def _next_of(self, step: int, start: int) -> Any:
        held = self._slices.setdefault(start, deque())
        while not held:
            item = self._next()
            self._slices.setdefault(self._count % step, deque()).append(item)
            self._count += 1
        return held.popleft()


def from_items(items: list[Any], num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """The items, dealt over ``num_shards`` actors."""
    return from_iterators([items[shard::_checked(num_shards)] for shard in range(num_shards)], repeat,
                          f"from_items[{type(items[0]).__name__ if items else ''}, {len(items)}, shards={num_shards}]")


def from_range(n: int, num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """The numbers below ``n``, in ``num_shards`` runs."""
    size = n // _checked(num_shards)
    ends = [*(shard * size for shard in range(num_shards)), n]
    return from_iterators([range(*ends[shard:shard + 2]) for shard in range(num_shards)], repeat,
                          f"from_range[{n}, shards={num_shards}]")


def from_iterators(generators: list[Any], repeat: bool = False, name: str | None = None) -> ParallelIterator:
    """One shard for each iterable, or function that makes one."""
    workers: Any = remote(ParallelIteratorWorker)
    workers = workers.options(num_cpus=0)
    return from_actors([workers.remote(each, repeat) for each in generators],
                       name or f"from_iterators[shards={len(generators)}]")


def from_actors(actors: list[Any], name: str | None = None) -> ParallelIterator:
    """The shards are actors of subclasses of ParallelIteratorWorker."""
    return ParallelIterator([(actor, []) for actor in actors], name or f"from_actors[shards={len(actors)}]")


def _checked(num_shards: int) -> int:
    if num_shards < 1:
        raise ValueError(f"num_shards must be at least 1, not {num_shards}")
    return num_shards


class ParallelIterator(_Transformable):
    """Shards in actors, and what is done with their items there."""

    def __init__(self, shards: list[tuple[Any, list[Transform]]], name: str):
        self._shards = shards
        self.name = name

    def __repr__(self) -> str:
        return f"ParallelIterator[{self.name}]"

    def __iter__(self) -> Any:
        raise TypeError("You must use it.gather_sync() or it.gather_async() to iterate over the results of a "
                        "ParallelIterator.")

    def transform(self, fn: Transform) -> ParallelIterator:
        return ParallelIterator([(actor, [*transforms, fn]) for actor, transforms in self._shards],
                                f"{self.name}.transform()")

    def local_shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> ParallelIterator:
        """Shuffle within each shard, by a buffer of so many items."""
        return self.transform(_shuffle(shuffle_buffer_size, seed))

    def union(self, other: ParallelIterator) -> ParallelIterator:
        """The shards of both."""
        return ParallelIterator([*self._shards, *other._shards], f"ParallelUnion[{self}, {other}]")

    def select_shards(self, shards_to_keep: list[int]) -> ParallelIterator:
        """The shards with these numbers."""
        return ParallelIterator([self._shards[number] for number in shards_to_keep],
                                f"{self.name}.select_shards({len(shards_to_keep)} total)")

    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    def shards(self) -> list[LocalIterator]:
        """An iterator for each shard."""
        return [self.get_shard(number) for number in range(self.num_shards())]

    def get_shard(self, shard_index: int, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """The items of one shard."""
        return self.select_shards([shard_index]).gather_async(batch_ms, num_async)

    def repartition(self, num_partitions: int, batch_ms: int = 0) -> ParallelIterator:
        """The items of all shards, dealt over new actors."""
        shards = self._shards
        self._begin()

        def slice_of(start: int) -> Callable[[], Iterator[Any]]:
            def items() -> Iterator[Any]:
                calls = [partial(actor.par_iter_slice_batch.remote, num_partitions, start, batch_ms)
                         for actor, _ in shards]
                return _gathered(calls, 1)

            return items

        return from_iterators([slice_of(start) for start in range(_checked(num_partitions))],
                              name=f"{self.name}.repartition[num_partitions={num_partitions}]")

    def _begin(self) -> None:
        get([actor.par_iter_init.remote(transforms) for actor, transforms in self._shards])

    def batch_across_shards(self) -> LocalIterator:
        """Lists with an item of each shard."""
        def rows() -> Iterator[list[Any]]:
            self._begin()
            actors = [actor for actor, _ in self._shards]
            while actors:
                found = get([actor.par_iter_next_batch.remote(0) for actor in actors])
                row = [item for items, _ in found for item in items]
                actors = [actor for actor, (_, ended) in zip(actors, found) if not ended]
                if row:
                    yield row

        return LocalIterator(rows, f"{self.name}.batch_across_shards()")

    def gather_sync(self) -> LocalIterator:
        """The items here: one of each shard in turn."""
        return self.batch_across_shards().flatten()

    def gather_async(self, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """The items here, as they get ready: ``num_async`` calls of each shard are under way.

        With ``batch_ms`` a call brings the items of so many milliseconds.
        """
        if num_async < 1:
            raise ValueError(f"num_async must be at least 1, not {num_async}")

        def items() -> Iterator[Any]:
            self._begin()
            return _gathered([partial(actor.par_iter_next_batch.remote, batch_ms) for actor, _ in self._shards],
                             num_async)

        return LocalIterator(items, f"{self.name}.gather_async()")

    def take(self, n: int) -> list[Any]:
        """The first ``n`` items of :meth:`gather_sync`."""
        return self.gather_sync().take(n)

    def show(self, n: int = 20) -> None:
        """Print the first ``n`` items."""
        self.gather_sync().show(n)


def _gathered(calls: Sequence[Callable[[], ObjectRef]], num_async: int) -> Iterator[Any]:
    """The items that calls bring, again and again until they say that it was the last one."""
    running = {call(): call for call in calls for _ in range(num_async)}
    while running:
        ready, _ = wait(list(running), num_returns=1)
        call = running.pop(ready[0])
        items, ended = get(ready[0])
        if not ended:
            running[call()] = call
        yield from items


class LocalIterator(_Transformable):
    """Items in this process; each iteration over it starts anew."""

    def __init__(self, base_iterator: Callable[[], Iterable[Any]], name: str | None = None):
        self._make = base_iterator
        self._running: Iterator[Any] | None = None
        self.name = name or "unknown"

    def __repr__(self) -> str:
        return f"LocalIterator[{self.name}]"

    def __iter__(self) -> Iterator[Any]:
        self._running = iter(self._make())
        return self._running

    def __next__(self) -> Any:
        if self._running is None:
            self._running = iter(self._make())
        return next(self._running)

    def transform(self, fn: Transform) -> LocalIterator:
        return LocalIterator(lambda: fn(self._make()), f"{self.name}.transform()")

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator:
        """Shuffle by a buffer of so many items."""
        return self.transform(_shuffle(shuffle_buffer_size, seed))

    def take(self, n: int) -> list[Any]:
        """The first ``n`` items."""
        return list(islice(self._make(), n))

    def show(self, n: int = 20) -> None:
        """Print the first ``n`` items."""
        for item in self.take(n):
            print(item)

    def union(self, *others: LocalIterator, deterministic: bool = False,
              round_robin_weights: Sequence[float | str] | None = None) -> LocalIterator:
        """An item of each iterator in turn, or as many as ``round_robin_weights`` says, until all have ended.

        The weight "*" stands for all that an iterator has.  The order never depends on time, so ``deterministic`` has
        no effect.
        """
        everyone = (self, *others)
        weights = [1] * len(everyone) if round_robin_weights is None else list(round_robin_weights)
        if len(weights) != len(everyone):
            raise ValueError(f"union of {len(everyone)} iterators takes as many weights, not {len(weights)}")
        counts = [None if weight == "*" else max(1, int(weight)) for weight in weights]

        def items() -> Iterator[Any]:
            left = [(iter(each._make()), count) for each, count in zip(everyone, counts, strict=True)]
            while left:
                for turn in list(left):
                    each, count = turn
                    taken = 0
                    for item in islice(each, count):
                        taken += 1
                        yield item
                    if count is None or taken < count:
                        left.remove(turn)

        return LocalIterator(items, f"LocalUnion[{self}, {', '.join(map(str, others))}]")

    def duplicate(self, n: int) -> list[LocalIterator]:
        """``n`` iterators over the same run; items wait in memory for the slowest."""
        from itertools import tee

        copies = tee(iter(self), n)
        return [LocalIterator(partial(iter, copy), f"{self.name}.duplicate[{number}]")
                for number, copy in enumerate(copies)]
