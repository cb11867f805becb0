"""The input of a graph, which ``execute`` gives its value, and parts of the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from zray.dag.node import DAGNode


class DAGInputData:
    """Several arguments of ``execute`` as one value: ``data[0]``, ``data["key"]``."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._args = list(args)
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, int):
            if key >= len(self._args):
                raise IndexError(f"the graph uses its input [{key}], and execute() got {len(self._args)} positional "
                                 "arguments")
            return self._args[key]
        if isinstance(key, str):
            if key not in self._kwargs:
                raise KeyError(f"the graph uses its input {key!r}, and execute() got {sorted(self._kwargs)}")
            return self._kwargs[key]
        raise ValueError("Please only use int index or str as first-level key to access fields of dag input.")

    def __repr__(self) -> str:
        return f"DAGInputData(args={self._args!r}, kwargs={self._kwargs!r})"


class InputNode(DAGNode):
    """The value that ``execute`` gets.  Make it in a ``with`` statement: ``with InputNode() as value:``.

    ``value[0]``, ``value["key"]`` and ``value.key`` are parts of it: of the one argument of ``execute``, or its
    arguments by position and by name when there are several.
    """

    def __init__(self, *args: Any, input_type: Any = None, **kwargs: Any):
        if args or kwargs:
            raise ValueError("InputNode should not take any args or kwargs.")
        super().__init__((), {}, {})
        self.input_type = input_type
        self._entered = False
        self.input_attribute_nodes: dict[int | str, InputAttributeNode] = {}

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # copy, pickle and others look for their own
            raise AttributeError(name)
        return self._part(name, True)

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        if not isinstance(key, (int, str)):
            raise TypeError("Please only use int index or str as first-level key to access fields of dag input, not "
                            f"{key!r}.")
        return self._part(key, False)

    def _part(self, key: int | str, is_attribute: bool) -> InputAttributeNode:
        known = self.__dict__.get("input_attribute_nodes")
        if known is None:  # half unpickled
            raise AttributeError(key)
        return known.setdefault(key, InputAttributeNode(self, key, is_attribute))

    def _execute(self, results: dict[DAGNode, Any], given: tuple[tuple, dict[str, Any]]) -> Any:
        if not self._entered:
            raise AssertionError("InputNode is a singleton instance that should be only used in context manager for "
                                 "dag building and execution: 'with InputNode() as value:'.")
        args, kwargs = given
        return args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)

    def _shown(self) -> str:
        return "__InputNode__"


class InputAttributeNode(DAGNode):
    """A part of the input."""

    def __init__(self, dag_input_node: InputNode, key: int | str, is_attribute: bool):
        super().__init__((), {}, {})
        self._dag_input_node = dag_input_node
        self._key = key
        self.is_attribute = is_attribute  # written as input.key, not input["key"]

    @property
    def key(self) -> int | str:
        """The index or the name."""
        return self._key

    def before(self) -> Iterator[DAGNode]:
        yield self._dag_input_node

    def part_of(self, value: Any) -> Any:
        """The part of the input's value."""
        if isinstance(value, DAGInputData) or not self.is_attribute:
            return value[self._key]
        return getattr(value, str(self._key))

    def _execute(self, results: dict[DAGNode, Any], given: tuple[tuple, dict[str, Any]]) -> Any:
        return self.part_of(results[self._dag_input_node])

    def _shown(self) -> str:
        return f"__InputNode__[{self._key!r}]"
