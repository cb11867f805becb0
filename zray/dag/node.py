"""A node of a graph: a call that was bound and has not been made, and how a graph is executed."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Iterator
from typing import Any, NoReturn, Self

from zray.dag.nesting import instances_in, replaced

TRANSPORTS_OF_ACCELERATORS = ("accelerator", "nccl", "gloo", "hccl")


class DAGNode:
    """A call whose arguments may be other nodes, also inside lists, tuples, dicts, sets and dataclasses.

    ``execute`` makes the calls of the graph below this node, each node once.
    """

    _bound_args: tuple[Any, ...]
    _bound_kwargs: dict[str, Any]
    _bound_options: dict[str, Any]

    def __init__(self, args: Any, kwargs: dict[str, Any], options: dict[str, Any]):
        self._bound_args = tuple(args)
        self._bound_kwargs = dict(kwargs)
        self._bound_options = dict(options)
        self._stable_uuid = uuid.uuid4().hex
        self._is_compiled = False
        self.cache_from_last_execute: dict[str, Any] = {}

    # ---- what is bound

    def get_args(self) -> tuple[Any, ...]:
        """The positional arguments, as they were bound."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """The keyword arguments, as they were bound."""
        return self._bound_kwargs.copy()

    def get_options(self) -> dict[str, Any]:
        """The options of the call."""
        return self._bound_options.copy()

    def get_stable_uuid(self) -> str:
        """An id in 32 hex digits that pickling does not change."""
        return self._stable_uuid

    def before(self) -> Iterator[DAGNode]:
        """The nodes that are executed before this one, with repeats: those in its arguments, in their order."""
        yield from instances_in(self._bound_args, DAGNode)
        yield from instances_in(self._bound_kwargs, DAGNode)

    def ordered(self) -> list[DAGNode]:
        """The nodes of the graph below this one and itself, each once, each after those that it needs."""
        order: dict[DAGNode, None] = {}
        entered: set[DAGNode] = set()
        path = [self]
        while path:  # not recursive: a chain may be longer than the stack of Python
            node = path[-1]
            if node in entered:
                path.pop()
                order.setdefault(node)
                continue
            entered.add(node)
            path += [child for child in reversed(list(node.before())) if child not in entered]
        return list(order)

    # ---- execution

    def execute(self, *args: Any, _ray_cache_refs: bool = False, **kwargs: Any) -> Any:
        """Make the calls of the graph; returns the result of this node: an ObjectRef, or what its kind says.

        The arguments are the value of the InputNode.  Nodes in the arguments of a call become references.
        """
        given = (args, kwargs)
        results: dict[DAGNode, Any] = {}
        for node in self.ordered():
            results[node] = node._execute(results, given)
        if _ray_cache_refs:
            self.cache_from_last_execute = {node._stable_uuid: result for node, result in results.items()}
        return results[self]

    def _execute(self, results: dict[DAGNode, Any], given: tuple[tuple, dict[str, Any]]) -> Any:
        raise NotImplementedError

    def _resolved(self, results: dict[DAGNode, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with the results of the nodes in them."""
        return replaced(self._bound_args, DAGNode, results), replaced(self._bound_kwargs, DAGNode, results)

    async def get_object_refs_from_last_execute(self) -> dict[str, Any]:
        """The result of each node, by its uuid, in the last ``execute(_ray_cache_refs=True)``."""
        return dict(self.cache_from_last_execute)

    def clear_cache(self) -> None:
        """Forget the results of the last execution."""
        self.cache_from_last_execute = {}

    # ---- compilation

    def experimental_compile(self, _submit_timeout: float | None = None, _buffer_size_bytes: int | None = None,
                             enable_asyncio: bool = False, _max_inflight_executions: int | None = None,
                             _max_buffered_results: int | None = None, _overlap_gpu_communication: bool | None = None,
                             _default_communicator: Any = "create") -> Any:
        """A CompiledDAG: the actors of this graph run it repeatedly, with values in shared memory.

        ``_submit_timeout`` seconds that ``execute`` may wait; ``_buffer_size_bytes`` of a message, more for larger
        ones; ``_max_inflight_executions`` that were not fetched yet; ``_max_buffered_results`` that were fetched out of
        order.  ValueError or NotImplementedError for graphs that cannot be compiled, with the reason.
        """
        from zray.dag.settings import CompileOptions

        if self._is_compiled:
            raise ValueError("It is not allowed to call `experimental_compile` on the same DAG object multiple times "
                             "no matter whether `teardown` is called or not. Please reuse the existing compiled DAG or "
                             "create a new one.")
        library = importlib.import_module("zray.dag.compiled")  # above nodes; most graphs do without
        compiled = library.compile_graph(self, CompileOptions.of(
            submit_timeout=_submit_timeout, buffer_size_bytes=_buffer_size_bytes, enable_asyncio=enable_asyncio,
            max_inflight_executions=_max_inflight_executions, max_buffered_results=_max_buffered_results))
        self._is_compiled = True
        return compiled

    def with_tensor_transport(self, transport: Any = "auto", device: str = "default", _static_shape: bool = False,
                              _direct_return: bool = False) -> Self:
        """Say how tensors of this node travel in a compiled graph: "auto" and "shm" are shared memory.

        NotImplementedError for transports between accelerators and for moves to their memory.
        """
        if device not in ("default", "cpu", "gpu", "cuda"):
            raise ValueError(f"Invalid device '{device}'. Valid options are: 'default', 'cpu', 'gpu', 'cuda'.")
        if transport in TRANSPORTS_OF_ACCELERATORS or device in ("gpu", "cuda"):
            what = f"transport={transport!r}" if transport in TRANSPORTS_OF_ACCELERATORS else f"device={device!r}"
            raise NotImplementedError(f"with_tensor_transport({what}): compiled graphs of zray carry values in shared "
                                      "memory of the host and do not reach the memory of accelerators. Use "
                                      "transport='shm', and move tensors in the methods of the actors.")
        if transport not in ("auto", "shm"):
            raise ValueError(f"Invalid transport type: {transport}. Transport must be one of 'auto' or 'shm'; zray has "
                             "no transports between accelerators and no communicators.")
        return self

    # ---- mistakes

    def __getattr__(self, name: str) -> Any:
        if name == "bind":
            raise AttributeError(f".bind() cannot be used again on {type(self)} ")
        if name == "remote":
            raise AttributeError(f".remote() cannot be used on {type(self)}. To execute the task graph for this node, "
                                 "use .execute().")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache_from_last_execute": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _shown(self) -> str:
        """The body of the call, for ``str``."""
        return ""

    def __str__(self) -> str:
        lines = [f"({type(self).__name__}, {self._stable_uuid})(", f"    body={self._shown()}"]
        lines += [f"    args={_one_line(self._bound_args)}", f"    kwargs={_one_line(self._bound_kwargs)}",
                  f"    options={self._bound_options}", ")"]
        return os.linesep.join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()})"


def _one_line(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def refuse_remote(what: str) -> NoReturn:
    """The error of ``.remote`` on what only a graph calls."""
    raise AttributeError(f".remote() cannot be used on {what}. Use .bind() instead to express an symbolic actor call.")
