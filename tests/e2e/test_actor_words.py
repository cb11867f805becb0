"""Names of actors, what classes and handles list, and what the runtime context says: the same in Ray."""

from __future__ import annotations

import inspect
import warnings

import pytest

from tests.e2e.target import IS_ZRAY, exceptions, ray, until


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


class Base:
    KIND = "base"

    @classmethod
    def kind(cls):
        return cls.KIND


@ray.remote
class Counter(Base):
    """Counts."""

    STEP = 2

    def __init__(self, start: int = 0):
        self.value = start

    @staticmethod
    def helper(text):
        return f"helped {text}"

    def add(self, by: int, *, twice: bool = False) -> int:
        """Add to the value."""
        self.value += by * (2 if twice else 1)
        return self.value

    def _hidden(self):
        return "hidden"

    def context(self):
        return about()


class Async:
    async def context(self):
        return about()


def about():
    here = ray.get_runtime_context()
    return here.get_assigned_resources(), here.get_task_name(), here.get_task_function_name()


def public(names):
    return sorted(name for name in names if not name.startswith("_"))


# ---------------------------------------------------------------- what classes and handles list


def test_classes_handles_and_methods_list_what_is_the_users():
    extra = {"bind"} if hasattr(Counter, "bind") else set()
    assert set(public(dir(Counter))) == {
        "KIND", "STEP", "add", "context", "helper", "kind", "options", "remote", *extra}
    counter = Counter.remote()
    assert sorted(dir(counter)) == [
        "__init__", "__ray_call__", "__ray_ready__", "__ray_terminate__", "_hidden", "add", "context", "helper", "kind"]
    assert set(public(dir(counter.add))) == {"options", "remote", *extra}
    assert (Counter.STEP, Counter.KIND, Counter.helper("it"), Counter.kind()) == (2, "base", "helped it", "base")


@pytest.mark.zray_only
def test_docs_and_signatures_are_the_users(cluster):
    counter = Counter.remote()
    assert (Counter.__doc__, counter.add.__doc__) == ("Counts.", "Add to the value.")
    assert str(inspect.signature(Counter)) == "(start: 'int' = 0)"
    assert str(inspect.signature(counter.add)) == "(by: 'int', *, twice: 'bool' = False) -> 'int'"
    assert str(inspect.signature(counter.helper)) == "(text)"
    found = Counter.options(name="documented").remote()
    assert ray.get_actor("documented").add.__doc__ == found.add.__doc__
    elsewhere = ray.get(ray.remote(lambda actor: (actor.add.__doc__, list(inspect.signature(actor.add).parameters))
                                   ).remote(counter))
    assert elsewhere == (None, ["by", "twice"])  # docs do not travel with handles, parameters do


def test_an_actor_class_cannot_be_inherited_from():
    with pytest.raises(ray.actor.ActorClassInheritanceException, match=(
            "Attempted to define subclass 'More' of actor class 'Counter'. Inheriting from actor classes is not")):
        class More(Counter):
            pass

    assert issubclass(ray.actor.ActorClassInheritanceException, TypeError)


def test_the_older_remote_takes_lists_of_arguments_and_options():
    counter = Counter._remote([5], {}, num_cpus=0)
    assert ray.get(counter.add._remote(args=(1,), kwargs={"twice": True}, max_task_retries=1)) == 7
    assert ray.get(counter.add._remote([3])) == 10
    assert ray.get(ray.remote(lambda x, y: x - y)._remote((5,), {"y": 2}, num_cpus=1)) == 3


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"name": 1}, TypeError, "name"), ({"name": "a", "namespace": 2}, TypeError, "namespace"),
    ({"name": ""}, ValueError, "Actor name cannot be an empty string"),
    ({"name": "a", "namespace": ""}, ValueError, '"" is not a valid namespace')])
def test_names_and_namespaces_are_checked_at_creation(options, error, words):
    with pytest.raises(error, match=words):
        Counter.options(**options).remote()


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ((None,), ValueError, "Please supply a non-empty value to get_actor"),
    (("",), ValueError, "Please supply a non-empty value to get_actor"),
    (("   ",), ValueError, "Failed to look up actor with name '   '"),
    (("a", 123), TypeError, "namespace must be None or a string"),
    (("a", ""), ValueError, '"" is not a valid namespace')])
def test_names_and_namespaces_are_checked_at_the_search(arguments, error, words):
    with pytest.raises(error, match=words):
        ray.get_actor(*arguments)


def test_a_taken_name_is_refused_with_a_type_of_its_own():
    first = Counter.options(name="taken").remote()
    ray.get(first.add.remote(1))
    words = "The name taken .* is already taken. Please use a different name or get"
    with pytest.raises(ValueError, match=words) as caught:
        Counter.options(name="taken").remote()
    assert isinstance(caught.value, exceptions.ActorAlreadyExistsError)
    ray.kill(first)

    def is_free():
        try:
            return Counter.options(name="taken").remote()
        except ValueError:
            return None

    assert ray.get(until(is_free).add.remote(1)) == 1


# ---------------------------------------------------------------- the runtime context


def local_context():
    return about()


def test_assigned_resources_are_those_that_stay():
    module = __name__
    assert ray.get(ray.remote(local_context).remote()) == ({"CPU": 1.0}, "local_context", f"{module}.local_context")
    counter = Counter.remote()
    assert ray.get(counter.context.remote()) == ({}, "Counter.context", f"{module}.Counter.context")
    assert ray.get(Counter.options(num_cpus=2).remote().context.remote())[0] == {"CPU": 2.0}
    assert ray.get(counter.context.options(name="mine").remote())[1:] == ("mine", f"{module}.Counter.context")
    assert ray.get(ray.remote(local_context).options(name="mine").remote())[1:] == ("mine", f"{module}.local_context")


@pytest.mark.parametrize("kind", ["sync", "async", "threaded"])
def test_names_inside_functions_are_bare_but_for_the_class_of_a_coroutine(kind):
    class Plain:
        def context(self):
            return about()

    class Coroutine:
        async def context(self):
            return about()

    cls = Coroutine if kind == "async" else Plain
    actor = ray.remote(cls).options(max_concurrency=2 if kind != "sync" else 1).remote()
    inside = "test_names_inside_functions_are_bare_but_for_the_class_of_a_coroutine.<locals>.Coroutine"
    owner = inside if kind == "async" else "Plain"
    assert ray.get(actor.context.remote())[1:] == (f"{cls.__name__}.context", f"{__name__}.{owner}.context")
    assert ray.get(actor.context.remote())[0] == {}


@pytest.mark.zray_only
def test_names_are_right_in_maps_in_tasks_that_run_inside_others_and_in_a_script():
    @ray.remote
    def inner():
        return about()[1:]

    @ray.remote
    def outer(x=0):
        return about()[1:], ray.get(inner.remote()), about()[1:]

    mine, its = ("outer", f"{__name__}.outer"), ("inner", f"{__name__}.inner")
    assert ray.get(outer.remote()) == (mine, its, mine)
    assert ray.get(outer.map([1, 2])) == [(mine, its, mine)] * 2


def test_deprecated_properties_are_id_objects_and_warn():
    @ray.remote
    class Asks:
        def ask(self):
            told = {}
            here = ray.get_runtime_context()
            for name in ("job_id", "node_id", "task_id", "actor_id", "current_placement_group_id"):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    told[name] = type(getattr(here, name)).__name__, getattr(here, name).hex()
                assert issubclass(caught[0].category, DeprecationWarning)
                better = name.removeprefix("current_")
                assert f"Use get_{better}() instead" in str(caught[0].message)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                everything = here.get()
            right = {"job_id": here.get_job_id(), "node_id": here.get_node_id(), "task_id": here.get_task_id(),
                     "actor_id": here.get_actor_id()}
            return told, {name: value.hex() for name, value in everything.items() if name != "namespace"}, right

    told, everything, right = ray.get(Asks.remote().ask.remote())
    assert everything == right
    assert {name: kind for name, (kind, _) in told.items()} == {
        "job_id": "JobID", "node_id": "NodeID", "task_id": "TaskID", "actor_id": "ActorID",
        "current_placement_group_id": "PlacementGroupID"}
    assert {name: value for name, (_, value) in told.items() if name in right} == right
    if IS_ZRAY:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert set(ray.get_runtime_context().get()) == {"job_id", "node_id", "namespace"}
