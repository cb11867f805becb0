"""Coroutines driven step by step: values, errors and cancellation pass through, and each step is inside ``step``."""

from __future__ import annotations

import asyncio
import types

import pytest

from zray.base.stepping import stepping


def noted(seen, name):
    def step(resume, value):
        seen.append(name)
        return resume(value)
    return step


def test_each_step_of_interleaved_coroutines_is_in_its_own_surroundings():
    seen = []

    async def body(result):
        for _ in range(2):
            await asyncio.sleep(0)
        return result

    async def one(name):
        return await stepping(body(name), noted(seen, name))

    async def both():
        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(both()) == ["a", "b"] and seen == ["a", "b"] * 3


def test_errors_come_out_and_thrown_ones_go_in():
    async def fails():
        await asyncio.sleep(0)
        raise KeyError("mine")

    async def catches():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "cancelled"

    async def main():
        with pytest.raises(KeyError, match="mine"):
            await stepping(fails(), noted([], ""))

        async def drive():
            return await stepping(catches(), noted([], ""))

        task = asyncio.ensure_future(drive())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert asyncio.run(main()) == "cancelled"


def test_a_coroutine_that_is_given_up_is_closed():
    closed = []

    @types.coroutine
    def once():
        yield

    async def body():
        try:
            await once()
        finally:
            closed.append(True)

    driven = stepping(body(), noted([], ""))
    driven.send(None)
    driven.close()
    assert closed == [True]
