"""The source of zray as the tests of its structure read it: modules, their areas, their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2] / "zray"


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of zray by its full name, parsed."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def area(module: str) -> str:
    """``zray.owner.tasks`` -> owner, ``zray.base.ids`` -> ids, ``zray`` -> zray."""
    return module.split(".")[1] if "." in module else module


def imports(module: str, *, typing: bool) -> set[str]:
    """Full names of the modules that ``module`` imports, inside functions too; of others than zray's the first name.

    ``typing`` includes imports that ``if TYPE_CHECKING`` guards.
    """
    tree, known, found = modules()[module], modules(), set()
    for node in _statements(tree, typing):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module} uses a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        else:
            continue
        found |= {name if name in known else name.split(".")[0] for name in names}
    return found - {module}


def _statements(tree: ast.AST, typing: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and not typing and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _statements(node, typing)


def cycles() -> list[set[str]]:
    """Sets of modules that import each other, directly or through others of the set; imports for types count."""
    graph = {name: {used for used in imports(name, typing=True) if used in modules()} for name in modules()}
    reached = {name: _reached(graph, name) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        loop = {other for other in reached[name] if name in reached[other]}
        if loop and loop not in found:
            found.append(loop)
    return found


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for used in graph[todo.pop()] - seen:
            seen.add(used)
            todo.append(used)
    return seen
