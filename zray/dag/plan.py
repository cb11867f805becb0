"""From a graph to what each process does: which values it reads, which methods it runs, to whom it writes.  Pure.

Every value of an execution has a number: 0 is the input, others are results of methods.  A value that another process
needs has a channel of the same number.  All processes run their methods in one order of the whole graph, so no two
wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from zray.base.named_tuples import NamedTuple
from zray.dag.calls import ClassMethodNode, FunctionNode, MultiOutputNode
from zray.dag.inputs import InputAttributeNode, InputNode
from zray.dag.nesting import instances_in
from zray.dag.node import DAGNode
from zray.handles.remote import ActorHandle

INPUT = 0
DRIVER = -1  # the process that compiles; actors are numbered from 0


class Value(NamedTuple):
    """An argument: a value of the execution, or a part of the input."""

    number: int
    key: int | str | None = None  # of the input: args[key] or kwargs[key]; None for all of it


class PlannedCall(NamedTuple):
    """A method that an actor runs once an execution."""

    method: str
    args: tuple[Any, ...]  # Value, or a constant
    kwargs: dict[str, Any]
    outputs: tuple[tuple[int, int | None], ...]  # value number, and which of several results it is


class GraphPlan(NamedTuple):
    """The work of all processes."""

    actors: list[ActorHandle]
    operations: list[list[PlannedCall]]  # by actor
    channels: dict[int, tuple[int, list[int]]]  # value number: the process that writes it, those that read it
    outputs: list[int]  # the values that the driver returns
    returns_list: bool
    positional: int  # how many positional arguments an execution needs
    keywords: list[str]  # and which ones by name

    def reads(self, process: int) -> list[int]:
        return [number for number, (_, readers) in self.channels.items() if process in readers]

    def writes(self, process: int) -> dict[int, list[int]]:
        return {number: readers for number, (writer, readers) in self.channels.items() if writer == process}


def make_plan(root: DAGNode) -> GraphPlan:
    """NotImplementedError or ValueError, with the reason, for a graph that cannot be compiled."""
    nodes = root.ordered()
    inputs = [node for node in nodes if isinstance(node, InputNode)]
    if len(inputs) != 1:
        raise NotImplementedError("Compiled DAGs currently require exactly one InputNode, and this graph has "
                                  f"{len(inputs)}")
    calls = [node for node in nodes if isinstance(node, ClassMethodNode) and node.is_class_method_call]
    for node in nodes:
        _check_node(node, root)
    actors = list(dict.fromkeys(_actor(call) for call in calls))
    results = _results(root)
    numbers = {node: number for number, node in enumerate(
        (node for node in nodes if isinstance(node, ClassMethodNode)
         and (node.is_class_method_output or node.num_returns == 1)), 1)}
    writers = {INPUT: DRIVER, **{number: actors.index(_actor(node)) for node, number in numbers.items()}}
    readers: dict[int, set[int]] = defaultdict(set)
    for node in results:
        readers[numbers[node]].add(DRIVER)
    operations: list[list[PlannedCall]] = [[] for _ in actors]
    parts: list[int | str | None] = []
    for call in calls:
        place = actors.index(_actor(call))
        args = tuple(_argument(arg, numbers) for arg in call.get_args())
        kwargs = {name: _argument(arg, numbers) for name, arg in call.get_kwargs().items()}
        used = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Value)]
        for value in used:
            readers[value.number].add(place)
        parts += [value.key for value in used if value.number == INPUT]
        if not used:
            raise ValueError("Compiled DAGs require each task to take a ray.dag.InputNode or at least one other "
                             f"DAGNode as an input. Invalid task node:\n{call}\n"
                             "Please bind the task to proper DAG nodes.")
        outputs = [(number, node.output_idx) for node, number in numbers.items()
                   if node is call or node.class_method_call is call]
        operations[place].append(PlannedCall(call.get_method_name(), args, kwargs, tuple(outputs)))
    channels = {number: (writers[number], sorted(places - {writers[number]})) for number, places in readers.items()
                if places - {writers[number]}}
    if None in parts and len(set(parts)) > 1:
        raise ValueError("All tasks must either use InputNode() directly, or they must index to specific args or "
                         "kwargs.")
    positional = 1 if None in parts else max((part + 1 for part in parts if isinstance(part, int)), default=0)
    return GraphPlan(actors, operations, channels, [numbers[node] for node in results],
                     isinstance(root, MultiOutputNode), positional,
                     sorted({part for part in parts if isinstance(part, str)}))


def _results(root: DAGNode) -> list[ClassMethodNode]:
    results = root.get_args() if isinstance(root, MultiOutputNode) else (root,)
    for node in results:
        if not isinstance(node, ClassMethodNode):
            raise ValueError("the outputs of a compiled graph must be calls of actors, not "
                             f"{node if isinstance(node, DAGNode) else type(node).__name__}")
    return list(results)


def _actor(node: ClassMethodNode) -> ActorHandle:
    actor = node._get_actor_handle()
    if actor is None:
        raise ValueError("Compiled DAGs can only bind methods to an actor that is already created with Actor.remote()")
    return actor


def _check_node(node: DAGNode, root: DAGNode) -> None:
    if isinstance(node, FunctionNode):
        raise NotImplementedError("Compiled DAGs currently only support actor method nodes, and this graph has a task: "
                                  f"{node!r}")
    if isinstance(node, MultiOutputNode) and node is not root:
        raise ValueError("a MultiOutputNode is the end of a graph; it cannot be an argument")
    if isinstance(node, ClassMethodNode):
        _actor(node)
        if isinstance(node.num_returns, int) and node.num_returns < 1:
            raise ValueError(f"{node!r} has num_returns={node.num_returns}: each call of a compiled graph has "
                             "a result")
    for arg in (*node.get_args(), *node.get_kwargs().values()):
        if not isinstance(arg, DAGNode) and next(instances_in(arg, DAGNode), None) is not None:
            raise ValueError(f"Found DAGNode in arg {arg!r} of {node!r}: a compiled graph takes nodes as arguments of "
                             "their own, not inside of containers")


def _argument(arg: Any, numbers: dict[ClassMethodNode, int]) -> Any:
    if isinstance(arg, InputNode):
        return Value(INPUT)
    if isinstance(arg, InputAttributeNode):
        if isinstance(arg.key, int) and arg.key < 0:
            raise ValueError(f"the input of a compiled graph has positions from 0, not {arg.key}")
        return Value(INPUT, arg.key)
    return Value(numbers[arg]) if isinstance(arg, ClassMethodNode) else arg
