"""Graphs of calls: bound first, executed later and repeatedly, as plain tasks or compiled."""

from zray.dag.calls import ClassMethodNode, ClassNode, FunctionNode, MultiOutputNode
from zray.dag.inputs import DAGInputData, InputAttributeNode, InputNode
from zray.dag.node import DAGNode

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]
