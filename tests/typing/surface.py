"""Read by mypy, never run: types flow through ``.remote``."""

from __future__ import annotations

import asyncio
from typing import assert_type

import zray as ray
from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
from zray.handles.remote import ActorClass, ActorHandle, RemoteFunction


@ray.remote
def add(x: int, y: float = 1.0) -> str:
    return str(x + y)


class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    def inc(self) -> int:
        return self.n


# Type checkers do not follow class decorators, so code that wants types says this instead of @ray.remote.
Counters = ray.remote(Counter)


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
    assert_type(Counters.remote(1), ActorHandle[Counter])


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


async def awaits_wrongly() -> None:
    number: int = await add.remote(1)  # E: assignment
    print(number)


def wrong() -> None:
    add.remote("x")  # E: arg-type
    add.remote()  # E: call-arg
    add.remote(1, z=1)  # E: call-arg
    number: int = ray.get(add.remote(1))  # E: assignment
    print(number)


explicit: ActorClass[Counter] = ray.remote(Counter)
function: RemoteFunction[[int], str] = ray.remote(lambda x: "s")
