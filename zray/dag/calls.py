"""Nodes that are calls: of a remote function, of an actor class, of a method; and several outputs as one node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zray.dag.inputs import InputAttributeNode, InputNode
from zray.dag.node import DAGNode, refuse_remote
from zray.handles.remote import ActorClass, ActorHandle, ActorMethod, RemoteFunction


class FunctionNode(DAGNode):
    """A task: ``f.bind(...)``."""

    def __init__(self, function: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]):
        super().__init__(args, kwargs, function._options.raw)
        self._remote_function = function

    @property
    def _body(self) -> Any:
        return self._remote_function.function

    def _execute(self, results: dict[DAGNode, Any], given: Any) -> Any:
        args, kwargs = self._resolved(results)
        return self._remote_function.remote(*args, **kwargs)

    def _shown(self) -> str:
        return repr(self._body)


class ClassNode(DAGNode):
    """An actor that each execution creates: ``A.bind(...)``.  Bind its methods: ``node.method.bind(...)``."""

    def __init__(self, actor_class: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]):
        super().__init__(args, kwargs, actor_class._zray.options.raw)
        self._actor_class = actor_class
        self._last_call: ClassMethodNode | None = None
        if any(isinstance(node, (InputNode, InputAttributeNode)) for node in self.ordered()):
            raise ValueError("InputNode handles user dynamic input the DAG, and cannot be used as args, kwargs, or "
                             "other_args_to_resolve in ClassNode constructor because it is not available at class "
                             "construction or binding time. Pass it to a method of the actor.")

    @property
    def _body(self) -> type:
        return self._actor_class._zray.cls

    def __getattr__(self, name: str) -> Any:
        actor_class = self.__dict__.get("_actor_class")
        if actor_class is None or name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name in actor_class._zray.methods:
            return UnboundClassMethodNode(self, name, {})
        if name in ("bind", "remote"):
            return super().__getattr__(name)
        raise AttributeError(f"type object {self._body.__name__!r} has no attribute {name!r}")

    def _execute(self, results: dict[DAGNode, Any], given: Any) -> Any:
        args, kwargs = self._resolved(results)
        return self._actor_class.remote(*args, **kwargs)

    def _shown(self) -> str:
        return repr(self._body)


class UnboundClassMethodNode:
    """A method of an actor that does not exist yet: ``bind`` makes a node of it."""

    def __init__(self, actor: ClassNode, method_name: str, options: dict[str, Any]):
        self._actor = actor
        self._method_name = method_name
        self._options = options

    def options(self, **options: Any) -> UnboundClassMethodNode:
        """The same method with other options."""
        return UnboundClassMethodNode(self._actor, self._method_name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """The call as a node; a tuple of nodes when the method has several results."""
        from zray.handles.options import CallOptions

        meta = self._actor._actor_class._zray.methods[self._method_name]
        returns = CallOptions.for_method(meta.options, meta.is_generator).merged(**self._options).num_returns
        node = ClassMethodNode(self._actor, self._method_name, args, kwargs, self._options, returns,
                               self._actor._last_call)
        self._actor._last_call = node
        return node.outputs()

    def __getattr__(self, name: str) -> Any:
        if name == "remote":
            refuse_remote("ClassMethodNodes")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class ClassMethodNode(DAGNode):
    """A call of a method, or one of the results of such a call (``is_class_method_output``).

    Calls of an actor that an execution creates run in the order in which they were bound.
    """

    def __init__(self, parent: ClassNode | ActorHandle, method_name: str, args: tuple[Any, ...],
                 kwargs: dict[str, Any], options: dict[str, Any], num_returns: int,
                 previous: ClassMethodNode | None = None):
        super().__init__(args, kwargs, options)
        self._parent_class_node = parent
        self._method_name = method_name
        self._num_returns = num_returns
        self._prev_class_method_call = previous
        self._call: ClassMethodNode | None = None  # of an output
        self._output_idx: int | None = None

    def outputs(self) -> ClassMethodNode | tuple[ClassMethodNode, ...]:
        """This call, or a node for each of its results when there are several."""
        if self._num_returns <= 1:
            return self
        return tuple(self._output(index) for index in range(self._num_returns))

    def _output(self, index: int) -> ClassMethodNode:
        node = ClassMethodNode(self._parent_class_node, self._method_name, (), {}, {}, self._num_returns)
        node._call, node._output_idx = self, index
        return node

    def get_method_name(self) -> str:
        """The name of the method."""
        return self._method_name

    @property
    def num_returns(self) -> int:
        """How many results the call has."""
        return self._num_returns

    @property
    def is_class_method_call(self) -> bool:
        """Whether this node is a call."""
        return self._call is None

    @property
    def is_class_method_output(self) -> bool:
        """Whether this node is one result of a call."""
        return self._call is not None

    @property
    def class_method_call(self) -> ClassMethodNode | None:
        """The call of which this is a result."""
        return self._call

    @property
    def output_idx(self) -> int | None:
        """Which result this is, from 0."""
        return self._output_idx

    def _get_actor_handle(self) -> ActorHandle | None:
        return self._parent_class_node if isinstance(self._parent_class_node, ActorHandle) else None

    def before(self) -> Iterator[DAGNode]:
        if self._call is not None:
            yield self._call
            return
        if isinstance(self._parent_class_node, ClassNode):
            yield self._parent_class_node
        if self._prev_class_method_call is not None:
            yield self._prev_class_method_call
        yield from super().before()

    def _execute(self, results: dict[DAGNode, Any], given: Any) -> Any:
        if self._call is not None:
            return results[self._call][self._output_idx]
        parent = self._parent_class_node
        actor = results[parent] if isinstance(parent, ClassNode) else parent
        method: ActorMethod = getattr(actor, self._method_name)
        args, kwargs = self._resolved(results)
        return (method.options(**self._bound_options) if self._bound_options else method).remote(*args, **kwargs)

    def _shown(self) -> str:
        return f"{self._method_name}()" if self._call is None else f"{self._method_name}()[{self._output_idx}]"


class MultiOutputNode(DAGNode):
    """Several nodes as the result of a graph: ``execute`` returns a list of their results."""

    def __init__(self, args: list[Any] | tuple[Any, ...]):
        if not isinstance(args, (list, tuple)):
            raise ValueError(f"Invalid input type for `args`, {type(args)}. A MultiOutputNode takes a list of nodes.")
        super().__init__(args, {}, {})

    def _execute(self, results: dict[DAGNode, Any], given: Any) -> Any:
        return list(self._resolved(results)[0])

    def _shown(self) -> str:
        return "__MultiOutputNode__"


def bind_function(function: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FunctionNode:
    """The node of ``f.bind``."""
    return FunctionNode(function, args, kwargs)


def bind_class(actor_class: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ClassNode:
    """The node of ``A.bind``."""
    return ClassNode(actor_class, args, kwargs)


def bind_method(method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The node, or the nodes, of ``actor.method.bind``."""
    node = ClassMethodNode(method._handle, method._name, args, kwargs, method._options.raw,
                           method._options.num_returns)
    return node.outputs()
