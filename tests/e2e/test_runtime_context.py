"""The runtime context: what code that runs knows about itself, with Ray's names and types."""

from __future__ import annotations

import pytest

from tests.e2e.target import ray


def context():
    return ray.get_runtime_context()


def named():
    return context().get_task_name(), context().get_task_function_name()


@ray.remote
def names():
    return named()


@ray.remote
class Names:
    def plain(self):
        return named()

    def assigned(self):
        return context().get_assigned_resources()

    def ids(self):
        return context().get(), context().get_actor_id()


@ray.remote
class AsyncNames:
    async def asks(self):
        return named()


def test_names_are_bare_and_function_names_have_their_module(cluster):
    @ray.remote
    def inner():
        return named()

    @ray.remote
    class Inner:
        def asks(self):
            return named()

    @ray.remote(max_concurrency=2)
    class Threaded:
        def asks(self):
            return named()

    module = __name__
    assert ray.get(names.remote()) == ("names", f"{module}.names")
    assert ray.get(names.options(name="mine").remote()) == ("mine", f"{module}.names")
    assert ray.get(inner.remote())[0] == "inner" and ray.get(inner.remote())[1].startswith(f"{module}.")
    assert ray.get(Names.remote().plain.remote()) == ("Names.plain", f"{module}.Names.plain")
    assert ray.get(Inner.remote().asks.remote()) == ("Inner.asks", f"{module}.Inner.asks")
    assert ray.get(Threaded.remote().asks.remote()) == ("Threaded.asks", f"{module}.Threaded.asks")
    assert ray.get(AsyncNames.remote().asks.remote()) == ("AsyncNames.asks", f"{module}.AsyncNames.asks")
    assert named() == (None, None)


def test_assigned_resources_are_what_the_task_or_the_running_actor_holds(cluster):
    assert ray.get(ray.remote(lambda: context().get_assigned_resources()).remote()) == {"CPU": 1.0}
    assert ray.get(Names.remote().assigned.remote()) == {}
    assert ray.get(Names.options(num_cpus=4).remote().assigned.remote()) == {"CPU": 4.0}


@pytest.mark.filterwarnings("ignore:This property is deprecated by Ray:DeprecationWarning")
def test_everything_at_once_is_id_objects(cluster):
    with pytest.warns(DeprecationWarning, match="Use get_xxx_id"):
        mine = context().get()
    assert set(mine) == {"job_id", "node_id", "namespace"}
    assert mine["job_id"].hex() == context().get_job_id() and mine["node_id"].hex() == context().get_node_id()
    task = ray.get(ray.remote(lambda: context().get()).remote())
    assert set(task) == {"job_id", "node_id", "namespace", "task_id"}
    found, actor = ray.get(Names.remote().ids.remote())
    assert set(found) == {"job_id", "node_id", "namespace", "task_id", "actor_id"}
    assert found["actor_id"].hex() == actor


@pytest.mark.parametrize(("name", "instead"), [
    ("job_id", "get_job_id"), ("node_id", "get_node_id"), ("task_id", "get_task_id"), ("actor_id", "get_actor_id"),
    ("current_placement_group_id", "get_placement_group_id")])
def test_the_old_properties_give_id_objects_and_say_what_to_use(cluster, name, instead):
    with pytest.warns(DeprecationWarning, match=rf"Use {instead}\(\) instead"):
        found = getattr(context(), name)
    expected = getattr(context(), instead)()
    assert (found.hex() == expected) if expected else name in ("task_id", "actor_id", "current_placement_group_id")
