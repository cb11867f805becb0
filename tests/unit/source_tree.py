"""The source of zray as the tests of its structure read it: modules, their areas, their imports.

Each file is parsed once, and what the tests ask is kept in the place of its tree: trees are many objects.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2] / "zray"


@dataclass(frozen=True)
class Module:
    """What a file defines and uses."""

    classes: tuple[str, ...]  # names of its public classes, nested ones too
    constants: tuple[str, ...]  # names in capitals that its top level assigns, but for private ones
    functions: tuple[tuple[str, int], ...]  # every function and method: its name, its lines
    lines: int
    attributes: frozenset[str]  # names behind a dot
    made_with_self: frozenset[str]  # classes whose instances are made with ``self`` as an argument
    imported: frozenset[str]  # full names as written, inside functions too
    imported_for_types: frozenset[str]  # those under ``if TYPE_CHECKING`` alone


@cache
def modules() -> dict[str, Module]:
    """Every module of zray by its full name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = _read(path.read_text(encoding="utf-8"), name)
    return found


def _read(source: str, name: str) -> Module:
    tree = ast.parse(source)
    functions: list[tuple[str, int]] = []
    classes, attributes, made_with_self = [], set(), set()
    imported: dict[bool, set[str]] = {False: set(), True: set()}
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, for_types = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for_types = True
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            classes.append(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node.name, (node.end_lineno or 0) - node.lineno + 1))
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.strip("_")[:1].isupper():
            if any(isinstance(given, ast.Name) and given.id == "self" for given in node.args):
                made_with_self.add(node.func.id)
        elif isinstance(node, ast.Import):
            imported[for_types] |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name} uses a relative import"
            imported[for_types] |= {f"{node.module}.{alias.name}" for alias in node.names}
        todo += [(child, for_types) for child in ast.iter_child_nodes(node)]
    return Module(tuple(classes), tuple(_constants(tree)), tuple(functions), source.count("\n"),
                  frozenset(attributes), frozenset(made_with_self), frozenset(imported[False]),
                  frozenset(imported[True]))


def _constants(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id.isupper() and name.id[0] != "_" and len(name.id) > 1:
                    yield name.id


def area(module: str) -> str:
    """``zray.owner.tasks`` -> owner, ``zray.ids`` -> ids, ``zray`` -> zray."""
    return module.split(".")[1] if "." in module else module


@cache
def imports(module: str, *, typing: bool) -> frozenset[str]:
    """Full names of the modules that ``module`` imports, inside functions too; of others than zray's the first name.

    ``typing`` includes imports that ``if TYPE_CHECKING`` guards.
    """
    read, known = modules()[module], modules()
    names = read.imported | read.imported_for_types if typing else read.imported
    found = set()
    for name in names:
        if name not in known and name.rpartition(".")[0] in known:
            name = name.rpartition(".")[0]  # a thing of a module
        found.add(name if name in known else name.split(".")[0])
    return frozenset(found - {module})


@cache
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
