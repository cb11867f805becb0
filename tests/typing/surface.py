"""Read by mypy, never run: types flow through ``.remote``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import zray as ray
from zray.actor import ActorClass, ActorHandle, ActorProxy
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.handles.remote import RemoteFunction


@ray.remote
def add(x: int, y: float = 1.0) -> str:
    return str(x + y)


@ray.remote(num_cpus=2, max_retries=1)
def with_options(x: int) -> str:
    return str(x)


@ray.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


@ray.remote(num_returns=2)
def pair() -> tuple[int, int]:
    return 1, 2


@ray.remote
def total(*numbers: int) -> int:
    return sum(numbers)


@ray.remote
def six(a: int, b: str, c: bytes, d: float, e: list[int], *, f: int = 0) -> None: ...


@ray.remote
def untyped(x, y):  # type: ignore[no-untyped-def]
    return x


class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    @ray.method
    def inc(self, by: int = 1) -> int:
        return self.n + by

    @ray.method(max_task_retries=2, concurrency_group="io")
    def show(self, prefix: str) -> str:
        assert_type(self.inc(2), int)  # in the class it is a plain method
        return prefix

    @ray.method
    async def later(self, x: float) -> float:
        return x

    @ray.method
    def many(self) -> Iterator[str]:
        yield "x"

    @ray.method
    async def stream(self) -> AsyncIterator[bytes]:
        yield b"x"

    @ray.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return 1, 2


# mypy does not follow class decorators (pyright does), so code that wants types says this instead of @ray.remote.
Counters = ray.remote(Counter)
Kept = ray.remote(num_cpus=1, max_restarts=1)(Counter)


@ray.method(num_returns=2)
def two(self: object) -> tuple[int, int]:
    return 1, 2


def use() -> None:
    ref = add.remote(1, y=2.0)
    assert_type(ref, ObjectRef[str])
    assert_type(ray.get(ref), str)
    assert_type(ray.get([ref]), list[str])
    assert_type(ray.put(3), ObjectRef[int])
    assert_type(add.options(num_cpus=2).remote(1), ObjectRef[str])
    assert_type(add.map([1, 2]), MapRefs[str])
    assert_type(ray.get(add.map([1])), list[str])
    assert_type(ray.wait([ref]), tuple[list[ObjectRef[str]], list[ObjectRef[str]]])
    assert_type(with_options.remote(1), ObjectRef[str])
    assert_type(with_options.options(name="x").remote(1), ObjectRef[str])
    assert_type(count.remote(3), ObjectRefGenerator[int])
    first, second = pair.remote()
    first, second = add.options(num_returns=2).remote(1)


def use_references(n: ObjectRef[int], x: ObjectRef[float], s: ObjectRef[str], b: ObjectRef[bytes],
                   numbers: list[ObjectRef[int]], anything: Any) -> None:
    assert_type(add.remote(n), ObjectRef[str])
    assert_type(add.remote(n, 2.0), ObjectRef[str])
    assert_type(add.remote(n, y=2.0), ObjectRef[str])
    assert_type(add.remote(1, x), ObjectRef[str])
    assert_type(add.remote(n, x), ObjectRef[str])
    assert_type(add.remote(anything, x), ObjectRef[str])
    assert_type(add.remote(anything), ObjectRef[str])
    assert_type(ray.get(add.options(num_cpus=2).remote(n, x)), str)
    assert_type(with_options.remote(n), ObjectRef[str])
    assert_type(count.remote(n), ObjectRefGenerator[int])
    assert_type(total.remote(*numbers), ObjectRef[int])
    assert_type(total.remote(n, 1, n), ObjectRef[int])
    assert_type(six.remote(n, s, b, x, ray.put([1]), f=3), ObjectRef[None])
    assert_type(six.remote(n, "x", b, 1.0, [n.hex().count("0")]), ObjectRef[None])
    untyped.remote(n, y=n)
    add.options(num_returns=2).remote(n)
    add.bind(n)
    add.options(num_returns=2).bind(n)
    counter = Counters.remote(n)
    assert_type(counter.inc.remote(n), ObjectRef[int])
    assert_type(counter.show.remote(s), ObjectRef[str])
    assert_type(counter.show.options(name="shown").remote(s), ObjectRef[str])
    assert_type(counter.later.remote(x), ObjectRef[float])
    counter.inc.bind(n)


def wrong_references(n: ObjectRef[int], s: ObjectRef[str]) -> None:
    add.remote(s)  # E: arg-type
    add.remote(1, s)  # E: arg-type
    add.remote(n, z=1)  # E: call-overload
    add.remote(n, 1.0, 2)  # E: call-overload
    total.remote(s)  # E: arg-type
    Counters.remote(1).inc.remote(s)  # E: arg-type
    six.remote(n, n, b"", 1.0, [1])  # E: arg-type
    add.options(num_returns=2).remote(s)  # E: arg-type


def use_actors() -> None:
    counter = Counters.remote(1)
    assert_type(counter.inc.remote(by=2), ObjectRef[int])
    assert_type(counter.show.remote("x"), ObjectRef[str])
    assert_type(counter.show.options(name="shown").remote("x"), ObjectRef[str])
    assert_type(counter.later.remote(1.5), ObjectRef[float])
    assert_type(counter.many.remote(), ObjectRefGenerator[str])
    assert_type(counter.stream.remote(), ObjectRefGenerator[bytes])
    assert_type(ray.get(counter.inc.remote()), int)
    assert_type(ray.get([counter.inc.remote()]), list[int])
    assert_type(ray.get(Kept.options(name="x", lifetime="detached").remote(1).inc.remote()), int)
    first, second = counter.pair.remote()
    ray.kill(counter)
    takes_typed(counter)


def takes_typed(counter: ActorProxy[Counter]) -> int:
    return ray.get(counter.inc.remote(1))


def takes_any(actor: ActorHandle[Any]) -> None:
    print(ray.get(actor.whatever.remote(1)))
    takes_any(ray.get_actor("x"))


async def awaits(items: ObjectRefGenerator[int]) -> None:
    ref = add.remote(1)
    assert_type(await ref, str)
    assert_type(await ref.as_future(), str)
    assert_type(await asyncio.wait_for(ref, 1), str)
    assert_type(await asyncio.gather(ref, ray.put(3)), tuple[str, int])
    async for item in items:
        assert_type(await item, int)
    for item in items:
        assert_type(await item, int)
    for one in add.map([1, 2]):
        assert_type(await one, str)


async def awaits_actors() -> None:
    counter = Counters.remote(1)
    assert_type(await counter.later.remote(1.0), float)
    async for item in counter.stream.remote():
        assert_type(await item, bytes)


async def awaits_wrongly() -> None:
    number: int = await add.remote(1)  # E: assignment
    print(number)


def wrong() -> None:
    add.remote("x")  # E: call-overload
    add.remote()  # E: call-overload
    add.remote(1, z=1)  # E: call-overload
    number: int = ray.get(add.remote(1))  # E: assignment
    print(number)


def wrong_methods() -> None:
    counter = Counters.remote(1)
    counter.nothing.remote(1)  # E: union-attr
    counter.inc.remote("x")  # E: call-overload
    counter.show.remote()  # E: call-overload
    counter.inc.remote(1, z=1)  # E: call-overload
    number: int = ray.get(counter.show.remote("x"))  # E: assignment
    print(number)


def wrong_options() -> None:
    add.options(num_cpu=1)  # E: call-overload
    add.options(num_cpus="1")  # E: call-overload
    add.options(max_restarts=1)  # E: call-overload
    add.options(num_cpus=1).remote("x")  # E: call-overload
    Counters.options(num_cpu=1)  # E: call-arg
    Counters.options(max_restarts="1")  # E: arg-type
    Counters.remote(1).inc.options(num_cpus=1)  # E: call-overload
    ray.remote(num_cpu=1)  # E: call-overload
    ray.method(num_return=1)  # E: call-overload


explicit: ActorClass[Counter] = ray.remote(Counter)
function: RemoteFunction[[int], str] = ray.remote(lambda x: "s")
