"""Generators whose items are returns: a fixed number of them, one object of their references, and what get makes of
a streaming one."""

from __future__ import annotations

import asyncio
import os
import time
import warnings

import numpy as np
import pytest

from tests.e2e.target import exceptions, ray, until
from zray.core import runtime

pytestmark = pytest.mark.filterwarnings("ignore:num_returns=.dynamic")
LARGE = 200_000  # bytes; more than travels inline


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


def _counts(directory) -> int:
    """How often the task that calls this has run before."""
    count = len(os.listdir(directory))
    open(os.path.join(directory, str(count)), "w").close()
    return count


def _numbers(count, fail_at=None, size=1):
    for i in range(count):
        if i == fail_at:
            raise ValueError(f"at {i}")
        yield np.full(size, i, dtype=np.uint8)


def firsts(values):
    return [int(value[0]) for value in values]


# ---------------------------------------------------------------- streaming


@ray.remote
def stream(count, fail=False):
    for i in range(count):
        yield i + 0  # not `yield from`: Ray cannot stream a plain iterator
    if fail:
        raise ValueError("at the end")


def test_get_of_a_streaming_generator_returns_it():
    assert [ray.get(ref) for ref in ray.get(stream.remote(3))] == [0, 1, 2]
    with pytest.raises(TypeError):
        ray.get([stream.remote(1)])


def test_a_streaming_generator_is_no_argument():
    with pytest.raises(TypeError):
        stream.remote(stream.remote(1))


def test_completed_is_ready_when_the_generator_has_ended_and_has_its_error():
    generator = stream.remote(2)
    assert ray.get(generator.completed(), timeout=30) is None
    assert generator.next_ready() and not generator.is_finished()
    assert [ray.get(ref) for ref in generator] == [0, 1]
    assert generator.is_finished() and not generator.next_ready()
    assert ray.get(generator.completed()) is None


@pytest.mark.zray_only
def test_completed_raises_the_error_of_the_generator():
    generator = stream.remote(1, True)
    with pytest.raises(ValueError, match="at the end"):
        ray.get(generator.completed(), timeout=30)
    first, last = generator
    assert ray.get(first) == 0
    with pytest.raises(ValueError, match="at the end"):
        ray.get(last)


# ---------------------------------------------------------------- num_returns="dynamic"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray deprecates the word

    @ray.remote(num_returns="dynamic")
    def dynamic(count, fail_at=None, size=1):
        yield from _numbers(count, fail_at, size)


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_dynamic_generator_gives_one_reference_to_the_references(size):
    ref = dynamic.remote(4, None, size)
    assert isinstance(ref, ray.ObjectRef)
    ready, _ = ray.wait([ref], timeout=30)
    assert ready == [ref]
    generator = ray.get(ref)
    assert len(generator) == 4
    refs = list(generator)
    assert firsts(ray.get(refs)) == [0, 1, 2, 3]
    assert list(ray.get(ref)) == refs
    del ref, generator
    assert firsts(ray.get(refs)) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_dynamic_generator_is_an_argument_as_reference_and_as_value(size):
    @ray.remote
    def use(generator):
        return firsts(ray.get(list(generator)))

    @ray.remote
    def use_inner(box):
        return firsts(ray.get(list(ray.get(box[0]))))

    ref = dynamic.remote(3, None, size)
    used = ray.get([use.remote(ref), use.remote(ray.get(ref)), use_inner.remote([ref])])
    assert used == [[0, 1, 2]] * 3
    assert ray.get(use.remote(dynamic.remote(2, None, size))) == [0, 1]
    copied = ray.get(ray.put(ray.get(ref)))
    del ref
    assert firsts(ray.get(list(copied))) == [0, 1, 2]


@pytest.mark.parametrize("fail_at", [0, 2])
def test_a_dynamic_generator_that_raises_gives_its_items_and_one_more_that_raises(fail_at):
    *refs, last = ray.get(dynamic.remote(5, fail_at))
    assert firsts(ray.get(refs)) == [*range(fail_at)]
    with pytest.raises(ValueError, match=f"at {fail_at}"):
        ray.get(last)


@pytest.mark.zray_only  # Ray mixes the items of the runs
def test_only_the_complete_run_of_a_retried_dynamic_generator_counts(tmp_path):
    @ray.remote(num_returns="dynamic", retry_exceptions=True, max_retries=5)
    def flaky():
        run = _counts(tmp_path)
        for i in range(4):
            if run < 2 and i == run + 1:
                raise ValueError("not yet")
            yield np.full(LARGE, run * 10 + i, dtype=np.uint8)

    assert firsts(ray.get(list(ray.get(flaky.remote())))) == [20, 21, 22, 23]


def test_methods_may_be_dynamic_generators():
    @ray.remote
    class Maker:
        @ray.method(num_returns="dynamic")
        def make(self, count):
            yield from _numbers(count)

        def plain(self, count):
            yield from _numbers(count)

    maker = Maker.remote()
    assert firsts(ray.get(list(ray.get(maker.make.remote(3))))) == [0, 1, 2]
    assert firsts(ray.get(list(ray.get(maker.plain.options(num_returns="dynamic").remote(2))))) == [0, 1]
    assert list(ray.get(maker.make.remote(0))) == []


def test_dynamic_needs_a_generator_function():
    with pytest.raises(ValueError, match="generator function"):
        ray.remote(num_returns="dynamic")(lambda: [1])


# ---------------------------------------------------------------- a fixed number of returns


@ray.remote(num_returns=3)
def three(count, fail_at=None, size=1):
    yield from _numbers(count, fail_at, size)


@pytest.mark.parametrize("size", [1, LARGE])
def test_each_item_fills_one_return(size):
    assert firsts(ray.get(three.remote(3, None, size))) == [0, 1, 2]
    assert firsts(ray.get(three.options(num_returns=2).remote(2, None, size))) == [0, 1]
    assert int(ray.get(three.options(num_returns=1).remote(1, None, size))[0]) == 0


@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize("made", [1, 2])
def test_an_error_leaves_the_items_before_it(made, size):
    refs = three.remote(3, made, size)
    assert firsts(ray.get(refs[:made])) == [*range(made)]
    for ref in refs[made:]:
        with pytest.raises(ValueError, match=f"at {made}"):
            ray.get(ref)


def test_too_few_items_are_an_error_of_the_returns_that_are_left():
    first, second, third = three.remote(2)
    assert firsts(ray.get([first, second])) == [0, 1]
    with pytest.raises(exceptions.RayTaskError, match="Task returned 2 objects, but num_returns=3") as caught:
        ray.get(third)
    assert isinstance(caught.value.as_instanceof_cause(), ValueError)
    with pytest.raises(ValueError, match="Task returned 0 objects, but num_returns=1"):
        ray.get(three.options(num_returns=1).remote(0))


def test_the_items_beyond_num_returns_are_dropped():
    assert firsts(ray.get(three.remote(7))) == [0, 1, 2]
    assert int(ray.get(three.options(num_returns=1).remote(2))[0]) == 0


@pytest.mark.zray_only  # Ray mixes the items of the runs
def test_a_retried_generator_with_fixed_returns_counts_only_the_last_run(tmp_path):
    @ray.remote(num_returns=2, retry_exceptions=[KeyError], max_retries=2)
    def flaky():
        run = _counts(tmp_path)
        yield np.full(LARGE, run, dtype=np.uint8)
        if run == 0:
            raise KeyError("not yet")
        yield np.full(LARGE, run, dtype=np.uint8)

    assert firsts(ray.get(flaky.remote())) == [1, 1]


def test_methods_fill_their_returns_item_by_item():
    @ray.remote
    class Maker:
        @ray.method(num_returns=3)
        def make(self, count, fail_at=None):
            yield from _numbers(count, fail_at)

        def plain(self, count):
            yield from _numbers(count)

    maker = Maker.remote()
    assert firsts(ray.get(maker.make.remote(3))) == [0, 1, 2]
    assert firsts(ray.get(maker.plain.options(num_returns=2).remote(2))) == [0, 1]
    first, second, third = maker.make.remote(3, 1)
    assert int(ray.get(first)[0]) == 0
    for ref in (second, third):
        with pytest.raises(ValueError, match="at 1"):
            ray.get(ref)


@pytest.mark.zray_only
def test_async_generators_fill_returns_too():
    @ray.remote
    class Maker:
        async def make(self, count):
            for item in _numbers(count):
                yield item

    maker = Maker.remote()
    assert firsts(ray.get(maker.make.options(num_returns=2).remote(2))) == [0, 1]
    assert firsts(ray.get(list(ray.get(maker.make.options(num_returns="dynamic").remote(3))))) == [0, 1, 2]


def test_a_value_that_cannot_be_split_is_an_error_of_the_task():
    @ray.remote(num_returns=2)
    def one():
        return 1

    for ref in one.remote():
        with pytest.raises(TypeError, match="has no len"):
            ray.get(ref)


@pytest.mark.zray_only
@pytest.mark.parametrize("wanted", [4, "dynamic", "streaming"])
def test_a_generator_holds_one_item_at_a_time(wanted):
    """Each item says how many earlier ones its process still holds."""
    def items():
        import weakref

        made = weakref.WeakSet()
        for _ in range(4):
            yield Counted(made)

    refs = ray.remote(num_returns=wanted)(items).remote()
    assert [value.alive for value in ray.get(list(ray.get(refs) if wanted == "dynamic" else refs))] == [0, 0, 0, 0]


class Counted:
    """Pickled as the number of its like that are alive."""

    def __init__(self, made):
        self.alive = len(made)
        made.add(self)


# ---------------------------------------------------------------- cancelled


def _stored() -> int:
    return len([row for row in runtime.current().query("store")["store"]["objects"] if row["state"] != "EVICTING"])


@pytest.mark.zray_only
@pytest.mark.parametrize("returns", [4, "dynamic"])
@pytest.mark.parametrize("kind", ["task", "async actor"])
def test_items_of_a_cancelled_generator_leave_the_store_while_the_job_goes_on(kind, returns, tmp_path):
    here = tmp_path / "here"

    @ray.remote(max_retries=0)
    def numbers():
        yield from _numbers(3, None, LARGE)
        here.touch()
        time.sleep(60)

    @ray.remote
    class Actor:
        async def numbers(self):
            for item in _numbers(3, None, LARGE):
                yield item
            here.touch()
            await asyncio.sleep(60)

    before = _stored()
    function = numbers if kind == "task" else Actor.remote().numbers
    refs = function.options(num_returns=returns).remote()
    first = refs[0] if type(refs) is list else refs
    until(here.exists)
    assert _stored() == before + 3
    ray.cancel(first)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(first)
    until(lambda: _stored() == before, "the items are freed")
