"""The public names, the words of errors that people search for, and handles; tried in local mode."""

from __future__ import annotations

import asyncio
import pickle
import threading

import cloudpickle
import pytest

import zray as ray
from zray.actor import ActorClassInheritanceException
from zray.handles import connection, refs
from zray.handles.options import ActorOptions
from zray.handles.remote import ActorHandle, ActorTemplate
from zray.handles.signatures import Parameters


@pytest.fixture
def local():
    ray.init(local_mode=True, num_cpus=3, resources={"disk": 2})
    yield
    ray.shutdown()
    assert not ray.is_initialized()


@ray.remote
def add(x, y=1):
    return x + y


@ray.remote
def fail():
    raise KeyError("lost")


@ray.remote
class Counter:
    def __init__(self, n=0):
        self.n = n

    def inc(self, by=1):
        self.n += by
        return self.n

    def fail(self):
        raise ValueError("no")

    @ray.method(num_returns=2)
    def both(self):
        return self.n, -self.n

    def count(self, upto):
        yield from range(upto)

    def leave(self):
        ray.actor.exit_actor()

    def me(self):
        return ray.get_runtime_context().current_actor

    @staticmethod
    def double(x):
        return 2 * x


def test_every_public_name_is_there():
    for name in ray.__all__:
        assert getattr(ray, name) is not None
    for name in ray.util.__all__:
        assert getattr(ray.util, name) is not None
    assert ray.actor.ActorHandle and ray.remote_function.RemoteFunction and ray.cloudpickle.dumps(1)
    with pytest.raises(AttributeError, match="has no attribute 'gets'"):
        ray.gets  # noqa: B018


def test_wrong_use_says_rays_words(local):
    ref = ray.put(1)
    actor = Counter.remote()
    for call, error, words in [
        (lambda: add(1), TypeError, "Remote functions cannot be called directly. Instead of running "
                                    f"'{__name__}.add()', try '{__name__}.add.remote()'."),
        (lambda: Counter(), TypeError, "Actors cannot be instantiated directly. Instead of 'Counter()', "
                                       "use 'Counter.remote()'."),
        (lambda: actor.inc(), TypeError, "Actor methods cannot be called directly. Instead of running 'object.inc()', "
                                         "try 'object.inc.remote()'."),
        (lambda: add.remote(), TypeError, "missing a required argument: 'x'"),
        (lambda: add.remote(1, 2, 3), TypeError, "too many positional arguments"),
        (lambda: actor.inc.remote(1, 2), TypeError, "too many positional arguments"),
        (lambda: Counter.remote(z=1), TypeError, "unexpected keyword argument 'z'"),
        (lambda: actor.incc, AttributeError, "'Counter' actor has no method 'incc'; did you mean 'inc'?"),
        (lambda: Counter.inc, AttributeError, "create an actor with"),
        (lambda: add.options(cpus=1), ValueError, "Invalid option keyword cpus for remote functions"),
        (lambda: ray.get(3), ValueError, "Invalid type of object refs"),
        (lambda: ray.get([ref, 3]), TypeError, "Attempting to call `get` on the value 3, which is not an ray.Obj"),
        (lambda: ray.get(ref, timeout=-2), ValueError, "must be nonnegative"),
        (lambda: ray.get(ref, timeout="1"), TypeError, "timeout"),
        (lambda: ray.put(ref), TypeError, "Calling 'put' on an ray.ObjectRef is not allowed"),
        (lambda: ray.wait([ref, ref]), ValueError, "unique ray_waitables"),
        (lambda: ray.wait([ref], num_returns=2), ValueError, "num_returns cannot be greater"),
        (lambda: ray.wait([ref], num_returns=0), ValueError, "Invalid number of objects to return"),
        (lambda: ray.wait([1]), TypeError, "wait() expected a list"),
        (lambda: ray.wait({ref}), TypeError, "wait() expected a list"),
        (lambda: ray.cancel(1), TypeError, "only supported for object refs"),
        (lambda: ray.kill(1), ValueError, "only supported for actors"),
        (lambda: ray.get_actor(""), ValueError, "non-empty"),
        (lambda: ray.get_actor("nobody"), ValueError, "Failed to look up actor with name 'nobody'"),
        (lambda: ray.remote(3), TypeError, "must be applied to either a function or a class"),
        (lambda: ray.remote(add), TypeError, "remote already"),
        (lambda: ray.remote(), TypeError, "The @remote decorator must be applied"),
        (lambda: ray.init(), RuntimeError, "Maybe you called ray.init twice by accident?"),
        (lambda: ray.init(cpus=3), RuntimeError, "Unknown keyword argument(s): cpus"),
        (lambda: ray.actor.exit_actor(), TypeError, "non-actor"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)


def test_actor_classes_cannot_be_inherited_from_and_say_what_to_do():
    class Plain:
        pass

    words = (r"Attempted to define subclass 'Sub' of actor class 'Counter'. Inheriting from actor classes is not "
             "currently supported.")
    for bases in ((Counter,), (Plain, Counter), (Counter, Plain)):
        with pytest.raises(ActorClassInheritanceException, match=words):
            type_of(bases)


def type_of(bases):
    class Sub(*bases):
        pass

    return Sub


def test_async_functions_are_not_tasks():
    async def f():
        pass

    with pytest.raises(ValueError, match="'async def' should not be used"):
        ray.remote(f)


def test_tasks_in_local_mode(local):
    assert ray.get(add.remote(ray.put(1), y=ray.put(2))) == 3
    assert ray.get([add.remote(i) for i in range(3)]) == [1, 2, 3]
    assert ray.get(add.map(range(3))) == [1, 2, 3] and ray.get(add.starmap([(1, 2)])) == [3]
    assert ray.wait(add.remote(1))[1] == []
    assert asyncio.run(_await(add.remote(1))) == 2
    assert add.remote(5).future().result() == 6
    with pytest.raises(KeyError) as caught:
        ray.get(add.remote(fail.remote()))
    assert isinstance(caught.value, ray.exceptions.RayTaskError)


async def _await(ref):
    return await ref


def test_actors_in_local_mode(local):
    actor = Counter.options(name="c").remote(5)
    assert ray.get([actor.inc.remote(), actor.inc.remote(by=2)]) == [6, 8]
    assert ray.get(actor.both.remote()) == [8, -8]
    assert ray.get(actor.both.options(num_returns=1).remote()) == (8, -8)
    assert [ray.get(ref) for ref in actor.count.remote(3)] == [0, 1, 2]
    assert ray.get(actor.double.remote(4)) == 8
    assert ray.get(actor.me.remote()) == actor == ray.get_actor("c") and hash(actor) == hash(ray.get_actor("c"))
    assert ray.get(actor.__ray_ready__.remote()) is True
    assert ray.get(actor.__ray_call__.remote(lambda self, k: self.n + k, 1)) == 9
    assert Counter.options(name="c", get_if_exists=True).remote() == actor
    assert ray.util.list_named_actors() == ["c"]
    with pytest.raises(ValueError, match="already taken"):
        Counter.options(name="c").remote()
    with pytest.raises(ValueError, match="no"):
        ray.get(actor.fail.remote())
    with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
        ray.get(actor.leave.remote())
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.inc.remote())
    assert ray.util.list_named_actors() == []


def test_a_constructor_that_raises_kills_the_actor(local):
    @ray.remote
    class Broken:
        def __init__(self):
            raise OSError("disk")

        def f(self):
            pass

    with pytest.raises(ray.exceptions.ActorDiedError, match="disk"):
        ray.get(Broken.remote().f.remote())


def test_retries_in_local_mode(local):
    tries = []

    @ray.remote(max_retries=2, retry_exceptions=[ValueError])
    def flaky():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError

    ray.get(flaky.remote())
    assert len(tries) == 3


def test_handles_pickle_and_keep_what_they_know(local):
    actor = Counter.remote(1)
    again = pickle.loads(pickle.dumps(actor))
    assert type(again) is ActorHandle and again == actor and ray.get(again.inc.remote()) == 2
    assert "inc" in dir(again) and repr(again).startswith("Actor(Counter, ")


def test_remote_functions_and_classes_pickle_even_when_they_refer_to_themselves(local):
    @ray.remote
    def fib(n):
        return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    @ray.remote
    class Node:
        def __init__(self, depth):
            self.child = Node.remote(depth - 1) if depth else None

        def depth(self):
            return 1 + ray.get(self.child.depth.remote()) if self.child else 0

    fib2, node2 = cloudpickle.loads(cloudpickle.dumps((fib, Node)))
    assert ray.get(fib2.remote(6)) == 8 and fib2.remote.__self__ is fib2
    assert ray.get(node2.remote(2).depth.remote()) == 2 and "depth" in dir(node2)
    with pytest.raises(TypeError, match="missing a required argument"):
        fib2.remote()


def test_options_share_one_definition():
    assert add.options(num_cpus=2).definition() is add.definition()


def test_async_actors_are_recognised():
    class Async:
        async def f(self):
            pass

    class AsyncGenerator:
        async def f(self):
            yield 1

    class Plain:
        def f(self):
            pass

    assert [ActorTemplate(cls, ActorOptions.build()).is_async for cls in (Async, AsyncGenerator, Plain)] == [
        True, True, False]


def test_undeclared_concurrency_groups_are_refused():
    class Grouped:
        @ray.method(concurrency_group="io")
        def f(self):
            pass

    with pytest.raises(ValueError, match=r"\['io'\], which are not declared"):
        ray.remote(Grouped)
    assert ray.remote(concurrency_groups={"io": 2})(Grouped)


@pytest.mark.parametrize("function", [
    lambda: 0, lambda a: 0, lambda a, b=1: 0, lambda *a: 0, lambda a, *b, c: 0, lambda *, c=1: 0, lambda a, /, b: 0,
    lambda **k: 0, lambda a=1, **k: 0])
def test_calls_are_checked_exactly_as_python_would(function):
    parameters = Parameters(Parameters.of(function).params)  # as after a trip through a pickle
    for args in ((), (1,), (1, 2), (1, 2, 3)):
        for kwargs in ({}, {"a": 1}, {"b": 1}, {"c": 1}, {"z": 1}):
            try:
                function(*args, **kwargs)
            except TypeError:
                with pytest.raises(TypeError):
                    parameters.check(args, kwargs)
            else:
                parameters.check(args, kwargs)


def test_views_in_local_mode(local):
    assert ray.cluster_resources() == {"CPU": 3.0, "disk": 2.0} == ray.available_resources()
    assert len(ray.nodes()) == 1 and ray.nodes()[0]["Alive"]
    assert ray.get_gpu_ids() == []
    context = ray.get_runtime_context()
    assert context.get_task_id() is None and context.get_actor_id() is None and len(context.get_node_id()) == 56
    assert "ready" in ray.explain(ray.put(1))


def test_the_context_is_a_context_manager_and_a_mapping():
    with ray.init(local_mode=True) as context:
        assert context["node_id"] == context.address_info["node_id"] and repr(context)
        assert ray.init(local_mode=True, ignore_reinit_error=True)["node_id"] == context["node_id"]
    assert not ray.is_initialized()


def test_the_first_call_starts_a_runtime(monkeypatch):
    started = []

    def start():
        started.append(1)
        context.init(local_mode=True)

    from zray.api import context

    monkeypatch.setattr("zray.handles.connection._start", start)
    try:
        assert ray.get(add.remote(1)) == 2 and started == [1]
        assert ray.get(add.remote(1)) == 2 and started == [1]
    finally:
        ray.shutdown()


def test_shutdown_without_a_runtime_is_harmless_and_old_references_say_so():
    ray.shutdown()
    with ray.init(local_mode=True):
        ref = ray.put(1)
    with pytest.raises(RuntimeError, match="zray is not running"):
        pickle.dumps(ref)
    assert connection.current() is None and refs._hooks["runtime"] is None


def test_actor_pool(local):
    pool = ray.util.ActorPool([Counter.remote(0), Counter.remote(100)])
    assert list(pool.map(lambda a, v: a.double.remote(v), [1, 2, 3])) == [2, 4, 6]
    assert sorted(pool.map_unordered(lambda a, v: a.double.remote(v), [1, 2, 3])) == [2, 4, 6]
    assert not pool.has_next() and pool.has_free()
    with pytest.raises(StopIteration):
        pool.get_next()
    pool.submit(lambda a, v: a.fail.remote(), 1)
    pool.submit(lambda a, v: a.double.remote(v), 5)
    with pytest.raises(ValueError):
        pool.get_next()
    assert pool.get_next() == 10
    actor = pool.pop_idle()
    pool.push(actor)
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(actor)


def test_as_completed_and_map_unordered(local):
    assert sorted(ray.util.as_completed([add.remote(i) for i in range(25)])) == list(range(1, 26))
    assert sorted(ray.util.map_unordered(add, range(25), backpressure_size=10)) == list(range(1, 26))


def test_inspect_serializability(capsys):
    assert ray.util.inspect_serializability(3) == (True, set())
    lock = threading.Lock()
    held = [lock]
    good, culprits = ray.util.inspect_serializability({"a": held}, name="config")
    (found,) = culprits
    assert not good and found.path == ("['a']", "[0]") and found.name == "[0]"
    assert found.obj is lock and found.parent is held and isinstance(found, ray.util.check_serialize.FailureTuple)
    assert "config -> ['a'][0] (a _thread.lock)" in capsys.readouterr().out


def test_the_culprit_in_a_closure_has_its_name(capsys):
    lock = threading.Lock()

    def function():
        return lock

    good, (found,) = ray.util.inspect_serializability(function)
    assert not good and found.obj is lock and found.name == "lock" and found.parent is function
    with pytest.raises(TypeError, match="closure variable 'lock'"):
        ray.cloudpickle.dumps_debug(function)
    assert pickle.loads(ray.cloudpickle.dumps_debug([1])) == [1]


@ray.remote
class Table(dict):
    LIMIT = 3
    made = 0

    def __init__(self, rows=()):
        super().__init__(rows)
        Table.made += 1

    def __repr__(self):
        return "a table"

    def __eq__(self, other):
        return "equal"

    __hash__ = dict.__hash__

    @classmethod
    def of(cls, key):
        return cls({key: cls.LIMIT})

    @property
    def first(self):
        return next(iter(self))


def test_an_actor_class_has_the_attributes_of_its_class(local):
    before = Table.made
    assert Table.LIMIT == 3 and isinstance(Table.first, property)
    plain = Table.of("a")
    assert type(plain).__name__ == "Table" and dict(plain) == {"a": 3} and Table.made == before + 1
    Table.LIMIT += 1
    Table.added = []
    assert Table.of("b")["b"] == 4 and Table.options(num_cpus=1).added is Table.added
    del Table.added
    assert not hasattr(Table, "added") and {"of", "LIMIT", "options", "remote"} <= set(dir(Table))
    with pytest.raises(AttributeError, match=r"Counter.inc is a method of the actor: create an actor"):
        Counter.inc  # noqa: B018


def test_setting_an_attribute_pickles_the_class_again():
    @ray.remote
    class Settings:
        limit = 1

    one = Settings._zray.definition()
    assert Settings._zray.definition() is one
    Settings.limit = 2
    _, blob = Settings._zray.definition()
    assert cloudpickle.loads(blob).limit == 2


def test_special_methods_are_methods_and_those_of_handles_stay_theirs(local):
    table = Table.remote({"a": 1})
    assert ray.get(table.__len__.remote()) == 1
    ray.get(table.__setitem__.remote("b", 2))
    assert ray.get([table.__getitem__.remote("b"), table.__contains__.remote("c")]) == [2, False]
    assert ray.get([table.__repr__.remote(), table.__eq__.remote(1)]) == ["a table", "equal"]
    assert table == table and hash(table) == hash(pickle.loads(pickle.dumps(table)))
    assert repr(table).startswith("Actor(Table, ") and f"{table}" == str(table) == repr(table)


def test_dir_of_a_handle_is_its_methods_and_those_of_every_actor(local):
    counter = Counter.remote()
    assert sorted(dir(counter)) == sorted(["inc", "fail", "both", "count", "leave", "me", "double", "__init__",
                                           "__ray_ready__", "__ray_call__", "__ray_terminate__"])


def test_remote_with_options_in_one_call(local):
    assert ray.get(add._remote(args=[1], kwargs={"y": 2}, num_cpus=2)) == 3
    assert ray.get(add._remote((1,), {"y": 5})) == 6
    counter = Counter._remote(args=[5], num_cpus=1)
    assert ray.get(counter.both._remote()) == [5, -5]
    assert ray.get(counter.inc._remote([2], {}, name="later")) == 7
    with pytest.raises(ValueError, match="Invalid option keyword num_cpu "):
        add._remote(args=[1], num_cpu=2)


@pytest.mark.parametrize("text", ["zray.errors:RayTaskError", "zray.errors:_rebuild_task_error", "zray.ids:ObjectID",
                                  "zray.refs:restore_ref", "zray.handles:ActorHandle._restore"])
def test_names_that_pickles_of_earlier_versions_have_still_lead_somewhere(text):
    from pkgutil import resolve_name

    assert callable(resolve_name(text))
