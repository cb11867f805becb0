"""Graphs of calls: bound first, executed later and repeatedly, as plain tasks or compiled."""

from typing import TYPE_CHECKING, Any

from zray.dag.calls import ClassMethodNode, ClassNode, FunctionNode, MultiOutputNode
from zray.dag.inputs import DAGInputData, InputAttributeNode, InputNode
from zray.dag.node import DAGNode
from zray.dag.settings import DAGContext

if TYPE_CHECKING:
    from zray.dag.compiled import CompiledDAG
    from zray.dag.references import CompiledDAGFuture, CompiledDAGRef

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "CompiledDAG",
    "CompiledDAGFuture",
    "CompiledDAGRef",
    "DAGContext",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]

_COMPILED = {"CompiledDAG": "compiled", "CompiledDAGFuture": "references", "CompiledDAGRef": "references"}


def __getattr__(name: str) -> Any:
    if name in _COMPILED:  # most graphs are not compiled
        import importlib

        return getattr(importlib.import_module(f"zray.dag.{_COMPILED[name]}"), name)
    raise AttributeError(f"module 'zray.dag' has no attribute {name!r}")
