"""labels: on nodes whose labels satisfy every hard expression; of those, on one that satisfies the soft ones too,
if such a node has the demand free.

An expression map is ``{label: [operator, value, ...]}`` with operators ``in``, ``not_in``, ``exists``,
``does_not_exist``; a plain string as the expression means equality, and ``"!x"`` its opposite.  A node without the
label satisfies ``not_in`` and ``does_not_exist``.  A ``labels`` map in any strategy (the option ``label_selector``) is
hard.  A ``ladder`` of maps (the option ``fallback_strategy``): on a node that satisfies the first one and has the
demand free, else by the second, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from zray.sched.policies.base import Choice, allowed, frozen

NAME = "labels"
OPERATORS = ("in", "not_in", "exists", "does_not_exist")


def satisfies(labels: Mapping[str, str], expressions: Mapping[str, Any] | None) -> bool:
    """Whether the labels of a node satisfy every expression.  ValueError for an unknown operator."""
    return all(_holds(labels.get(name), expression) for name, expression in (expressions or {}).items())


def _holds(value: str | None, expression: Any) -> bool:
    if isinstance(expression, str):
        return value != expression[1:] if expression.startswith("!") else value == expression
    operator, *values = expression
    if operator == "in":
        return value in values
    if operator == "not_in":
        return value not in values
    if operator == "exists":
        return value is not None
    if operator == "does_not_exist":
        return value is None
    raise ValueError(f"label operator {operator!r} is none of {OPERATORS}")


def selected(view: Any, row: int, strategy: dict) -> bool:
    """Whether the row satisfies the label selector that any strategy may carry."""
    selector = strategy.get("labels")
    return not selector or satisfies(view.labels[row], selector)


def selector_key(strategy: dict) -> Any:
    """The key of a selector's mask."""
    return frozen(strategy.get("labels") or {})


def choices(view: Any, strategy: dict, here: int) -> list[Choice]:
    if strategy.get("ladder"):
        return [Choice(allowed(view, (NAME, "ladder", frozen(step)), partial(_row_satisfies, view, step)))
                for step in strategy["ladder"]]

    def hard(row: int) -> bool:
        return selected(view, row, strategy) and satisfies(view.labels[row], strategy.get("hard"))

    def both(row: int) -> bool:
        return hard(row) and satisfies(view.labels[row], strategy["soft"])

    key = (NAME, selector_key(strategy), frozen(strategy.get("hard") or {}))
    must = Choice(allowed(view, key, hard))
    if not strategy.get("soft"):
        return [must]
    return [Choice(allowed(view, (*key, frozen(strategy["soft"])), both)), must]


def _row_satisfies(view: Any, expressions: Mapping[str, Any], row: int) -> bool:
    return satisfies(view.labels[row], expressions)


def obstacle(view: Any, strategy: dict) -> str:
    if strategy.get("ladder"):
        reasons = [_unsatisfied(view, step) for step in strategy["ladder"]]
        return reasons[0] if all(reasons) else ""
    return _unsatisfied(view, strategy.get("hard"))


def selector_obstacle(view: Any, strategy: dict) -> str:
    return _unsatisfied(view, strategy.get("labels"))


def _unsatisfied(view: Any, expressions: Mapping[str, Any] | None) -> str:
    if not expressions:
        return ""
    try:
        if any(satisfies(view.labels[row], expressions) for row in view.row_of.values()):
            return ""
    except (ValueError, TypeError) as error:
        return f"its label expressions {expressions!r} are malformed: {error}"
    has = [dict(view.labels[row]) for row in sorted(view.row_of.values())]
    return f"it must run on a node with labels {expressions!r}, and the nodes have {has}"
