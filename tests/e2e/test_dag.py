"""Graphs that are bound first and executed later, as plain tasks and calls."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import warnings

import pytest

from tests.e2e.target import TARGET, exceptions, ray

dag = importlib.import_module(f"{TARGET}.dag")
InputNode, MultiOutputNode = dag.InputNode, dag.MultiOutputNode
pytestmark = pytest.mark.filterwarnings("ignore:.*execute.*is deprecated")


@dataclasses.dataclass(frozen=True)
class Point:
    x: object


@ray.remote
def add(x, y=1):
    return x + y


@ray.remote
def given(*args, **kwargs):
    return args, kwargs


@ray.remote
def total(values):
    return sum(ray.get(list(values)))


@ray.remote
class Account:
    def __init__(self, balance=0):
        self.balance = balance

    def deposit(self, amount):
        self.balance += amount
        return self.balance

    @ray.method(num_returns=2)
    def split(self, amount):
        return amount // 2, amount - amount // 2


def test_a_node_in_the_arguments_of_a_call_is_its_result(cluster):
    graph = add.bind(add.bind(1, y=2), y=add.bind(10))
    assert ray.get(graph.execute()) == 14
    assert ray.get(graph.execute()) == 14, "a graph is executed as often as one likes"


def test_nodes_inside_containers_become_references_as_in_a_call(cluster):
    node = add.bind(1)
    assert ray.get(total.bind([node, add.bind(node)]).execute()) == 5
    assert ray.get(total.bind({node: 1, add.bind(2): 2}).execute()) == 5
    (point, named), kwargs = ray.get(given.bind(Point(node), ("a", node), key={"in": [node]}).execute())
    assert ray.get([point.x, named[1], *kwargs["key"]["in"]]) == [2, 2, 2]


def test_the_input_and_its_parts(cluster):
    with InputNode() as value:
        whole = given.bind(value, same=value)
        parts = given.bind(value[0], value[1], key=value.key)
        of_one = given.bind(value["m"], value["n"])
        attributes = given.bind(value.real, value.imag)
    assert ray.get(whole.execute(5)) == ((5,), {"same": 5})
    assert ray.get(parts.execute(1, 2, key=3)) == ((1, 2), {"key": 3})
    assert ray.get(of_one.execute({"m": 1, "n": 2})) == ((1, 2), {})
    assert ray.get(attributes.execute(3)) == ((3, 0), {})
    assert ray.get(given.bind(value[0], value[-1]).execute([7, 8, 9])) == ((7, 9), {})
    (data,), _ = ray.get(whole.execute(1, 2, key=3))
    assert (data[0], data[1], data["key"]) == (1, 2, 3)
    with pytest.raises(KeyError):
        of_one.execute({"m": 1})


def test_wrong_inputs_are_refused(cluster):
    with pytest.raises(ValueError, match="InputNode should not take any args or kwargs"):
        InputNode(1)
    with pytest.raises(AssertionError, match="only used in context manager"):
        add.bind(InputNode()).execute(1)
    with InputNode() as value, pytest.raises(ValueError, match="cannot be used as args"):
        Account.bind(add.bind(value))
    with pytest.raises(ValueError, match="Invalid input type for `args`"):
        MultiOutputNode(add.bind(1))


def test_a_node_is_executed_once_for_all_that_use_it(cluster):
    account = Account.remote()
    deposit = account.deposit.bind(1)
    graph = MultiOutputNode([add.bind(deposit), add.bind(deposit), deposit])
    assert ray.get(graph.execute()) == [2, 2, 1]
    assert ray.get(graph.execute()) == [3, 3, 2]


def test_an_execution_creates_the_actors_of_its_graph(cluster):
    account = Account.bind(add.bind(9))
    first, second = account.deposit.bind(1), account.deposit.bind(2)
    graph = MultiOutputNode([second, first])
    assert ray.get(graph.execute()) == [13, 11], "calls run in the order in which they were bound"
    assert ray.get(graph.execute()) == [13, 11], "each execution has an actor of its own"
    assert ray.get(account.execute().deposit.remote(5)) == 15


def test_several_results_of_a_method_are_nodes_of_their_own(cluster):
    account = Account.remote()
    low, high = account.split.bind(7)
    assert ray.get(MultiOutputNode([low, add.bind(high), low]).execute()) == [3, 5, 3]
    assert low.is_class_method_output and not low.is_class_method_call and (high.output_idx, high.num_returns) == (1, 2)
    assert low.class_method_call is high.class_method_call and low.class_method_call.get_method_name() == "split"
    one, other = Account.bind().split.bind(8)
    assert ray.get(MultiOutputNode([one, other]).execute()) == [4, 4]
    left = account.deposit.bind(1)
    assert left.is_class_method_call and left.output_idx is None and left.num_returns == 1


def test_options_hold(cluster):
    node = add.options(name="sum", num_cpus=0.5).bind(1)
    assert node.get_options() == {"name": "sum", "num_cpus": 0.5}
    assert ray.get(node.execute()) == 2
    account = Account.options(num_cpus=0).bind(3)
    assert ray.get(account.deposit.options(name="first").bind(1).execute()) == 4
    assert (add.bind(1, y=2).get_args(), add.bind(1, y=2).get_kwargs()) == ((1,), {"y": 2})


def test_a_graph_travels(cluster):
    graph = add.bind(add.bind(1))

    @ray.remote(num_cpus=0)
    def run(nodes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ray.get(nodes[0].execute())

    copy = ray.cloudpickle.loads(ray.cloudpickle.dumps(graph))
    assert copy.get_stable_uuid() == graph.get_stable_uuid() != add.bind(1).get_stable_uuid()
    assert ray.get(copy.execute()) == ray.get(run.remote([graph])) == 3
    with InputNode() as value:
        taken = ray.cloudpickle.loads(ray.cloudpickle.dumps(add.bind(value.real)))
    assert ray.get(taken.execute(4)) == 5


def test_errors_of_a_node_reach_the_results_that_need_it(cluster):
    bad = add.bind("a")
    good, needs_bad = MultiOutputNode([add.bind(1), add.bind(bad)]).execute()
    assert ray.get(good) == 2
    with pytest.raises(exceptions.RayTaskError) as caught:
        ray.get(needs_bad)
    assert isinstance(caught.value, TypeError)


def test_a_long_chain_is_no_recursion(cluster):
    @ray.remote(num_cpus=0)
    class Sum:
        def plus(self, x):
            return x + 1

    with InputNode() as value:
        node = value
        actor = Sum.remote()
        for _ in range(1500 if TARGET == "zray" else 50):
            node = actor.plus.bind(node)
    assert ray.get(node.execute(0)) == (1500 if TARGET == "zray" else 50)


def test_nodes_say_what_they_are_and_what_they_cannot(cluster):
    node, actor = add.bind(1), Account.bind()
    assert [type(one).__name__ for one in (node, actor, actor.deposit.bind(1))] == [
        "FunctionNode", "ClassNode", "ClassMethodNode"]
    assert all(isinstance(one, dag.DAGNode) for one in (node, actor, MultiOutputNode([node])))
    for wrong in (lambda: node.bind(2), lambda: actor.bind(2)):
        with pytest.raises(AttributeError, match="cannot be used again"):
            wrong()
    with pytest.raises(AttributeError, match=r"use \.execute\(\)"):
        node.remote()
    with pytest.raises(AttributeError, match="Use .bind"):
        actor.deposit.remote(1)
    with pytest.raises(AttributeError, match="has no attribute 'withdraw'"):
        actor.withdraw
    with pytest.raises(TypeError):
        add.bind(1, 2, 3)
    assert "FunctionNode" in str(node)


def test_results_of_the_last_execution_are_kept_on_request(cluster):
    inner = add.bind(1)
    graph = add.bind(inner)
    result = graph.execute(_ray_cache_refs=True)
    kept = asyncio.run(graph.get_object_refs_from_last_execute())
    assert kept[graph.get_stable_uuid()] == result and ray.get(kept[inner.get_stable_uuid()]) == 2
    graph.clear_cache()
    assert asyncio.run(graph.get_object_refs_from_last_execute()) == {}
