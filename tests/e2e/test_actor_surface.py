"""Actor classes and handles as programs use them: attributes, special methods, caches, order, pools, atexit."""

from __future__ import annotations

import asyncio
import os
import textwrap

import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import exceptions, ray

pytestmark = pytest.mark.zray_only


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


class Base:
    KINDS = ("a", "b")
    made = 0

    @classmethod
    def count(cls):
        cls.made += 1
        return cls.made


@ray.remote
class Worker(Base):
    BATCH = 32

    class Config:
        def limit(self):
            return Worker.made

    def __init__(self, x=0):
        self.x = x

    @staticmethod
    def parse(text):
        Worker.made += 1
        return int(text)

    @classmethod
    def of(cls, x):
        return cls(x)

    def run(self):
        Worker.made += 1
        Worker.parse("1")
        Worker.count()
        plain = Worker.of(7)
        return (Worker.BATCH, Worker.KINDS, Worker.made, type(self).made, Worker.Config().limit(), plain.x,
                type(plain) is type(self))


def test_the_attributes_of_an_actor_class_are_there_in_its_methods_and_in_the_driver():
    assert ray.get(Worker.remote().run.remote()) == (32, ("a", "b"), 3, 3, 3, 7, True)
    assert Worker.made == 0 and Worker.parse("3") == 3 and Worker.made == 1
    Worker.made = 0


def test_a_class_attribute_set_in_the_driver_goes_with_the_actors_created_from_then_on():
    @ray.remote
    class Settings:
        limit = 1

        def get(self):
            return Settings.limit

    before = Settings.remote()
    assert ray.get(before.get.remote()) == 1
    Settings.limit = 2
    assert ray.get([before.get.remote(), Settings.remote().get.remote()]) == [1, 2]


def test_static_methods_and_inner_classes_of_an_importable_actor_class_see_the_class_of_the_instance(tmp_path):
    (tmp_path / "library.py").write_text(textwrap.dedent("""
        import zray as ray

        @ray.remote
        class Counter:
            made = 0

            class Inner:
                def made(self):
                    return Counter.made

            @staticmethod
            def add():
                Counter.made += 1

            def run(self):
                Counter.add()
                self.add()
                return self.made, Counter.made, Counter.Inner().made()
    """))
    done = run_script(tmp_path, """
        import library, zray as ray
        ray.init(num_cpus=1)
        print(ray.get(library.Counter.remote().run.remote()), library.Counter.made)
    """)
    assert done.stdout.split("\n")[0] == "(2, 2, 2) 0"


def test_methods_are_looked_up_on_the_class():
    class Sync:
        def __init__(self):
            self.value = 0
            self.items = []

        def value(self):
            return "method"

        def items(self):
            yield 1

    class Async(Sync):
        async def value(self):
            return "method"

    for cls, options in ((Sync, {}), (Async, {}), (Sync, {"max_concurrency": 2})):
        actor = ray.remote(cls).options(**options).remote() if options else ray.remote(cls).remote()
        assert ray.get(actor.value.remote()) == "method"
        assert [ray.get(ref) for ref in actor.items.remote()] == [1]


@pytest.mark.parametrize("kind", ["async", "threaded"])
def test_a_late_argument_does_not_hold_back_later_calls_of_concurrent_actors(kind, gate):
    @ray.remote
    def late():
        gate.wait()
        return "late"

    class Threaded:
        def echo(self, x):
            return x

    class Async:
        async def echo(self, x):
            await asyncio.sleep(0)
            return x

    actor = ray.remote(Async).remote() if kind == "async" else ray.remote(max_concurrency=2)(Threaded).remote()
    first = actor.echo.remote(late.remote())
    assert ray.get(actor.echo.remote("second"), timeout=30) == "second"
    gate.open()
    assert ray.get(first, timeout=30) == "late"


def test_caches_of_a_scripts_functions_and_classes_travel(tmp_path):
    done = run_script(tmp_path, """
        import functools
        import zray as ray
        ray.init(num_cpus=1)

        @functools.lru_cache(maxsize=None)
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        @functools.singledispatch
        def kind(x):
            return "object"

        @kind.register
        def _(x: int):
            return "int"

        @ray.remote
        class Model:
            @functools.lru_cache(maxsize=8)
            def table(self, n):
                return list(range(n))

            @functools.cached_property
            def size(self):
                return 5

            def run(self):
                return len(self.table(3)) + self.size + fib(30), kind(1), kind("a")

        fib(10)
        pair = ray.get(ray.remote(lambda: (fib(10), fib.cache_info().hits)).remote())
        print(pair, ray.get(Model.remote().run.remote()))
    """)
    assert done.stdout.split("\n")[0] == "(55, 8) (832048, 'int', 'object')"


def test_atexit_handlers_that_a_program_registers_before_init_still_find_the_session(tmp_path):
    done = run_script(tmp_path, """
        import atexit
        import zray as ray

        def save():
            print(ray.is_initialized(), ray.get(keeper.state.remote(), timeout=30))

        atexit.register(save)
        ray.init(num_cpus=1)

        @ray.remote
        class Keeper:
            def state(self):
                return "saved"

        keeper = Keeper.remote()
    """)
    assert done.stdout.split("\n")[0] == "True saved"


class Square:
    def square(self, x):
        if x == "die":
            os._exit(1)
        return x * x

    def of_other(self, other):
        return ray.get(other.square.remote(2))


def square(actor, x):
    return actor.square.remote(x)


@pytest.mark.parametrize("take", ["get_next", "get_next_unordered"])
def test_a_pool_gives_no_work_to_an_actor_that_has_died(take):
    pool = ray.util.ActorPool([ray.remote(Square).remote() for _ in range(2)])
    for x in (1, "die", 3, 4, 5, 6):
        pool.submit(square, x)
    out = []
    while pool.has_next():
        try:
            out.append(getattr(pool, take)(timeout=60))
        except exceptions.ActorDiedError:
            out.append("died")
    assert sorted(map(str, out)) == ["1", "16", "25", "36", "9", "died"]


def test_a_pool_skips_an_actor_that_died_while_idle_and_keeps_one_that_only_met_a_dead_one():
    living, dead = ray.remote(Square).remote(), ray.remote(Square).remote()
    ray.get([living.square.remote(1), dead.square.remote(1)])
    ray.kill(dead)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(dead.square.remote(1), timeout=30)
    pool = ray.util.ActorPool([dead, living])
    assert list(pool.map(square, [1, 2, 3])) == [1, 4, 9]
    pool.submit(lambda actor, other: actor.of_other.remote(other), dead)
    with pytest.raises(exceptions.ActorDiedError):
        pool.get_next()
    assert list(pool.map_unordered(square, [5])) == [25] and pool.pop_idle() == living


def test_a_pool_whose_actors_have_all_died_says_so_for_each_value_and_takes_new_ones():
    pool = ray.util.ActorPool([ray.remote(Square).remote()])
    for x in ("die", 2, 3):
        pool.submit(square, x)
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError):
            pool.get_next_unordered(timeout=60)
    pool.push(ray.remote(Square).remote())
    assert pool.get_next_unordered(timeout=60) == 9 and not pool.has_next()
    with pytest.raises(exceptions.ActorDiedError):
        list(pool.map(square, ["die", 2]))
    assert list(ray.util.ActorPool([ray.remote(Square).remote()]).map(square, [3])) == [9]
