"""Imports point one way, as docs/internals.md says under "Layers"; this test reads them.

Imports inside functions count too, except those that ``if TYPE_CHECKING`` guards.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "zray"

GROUND = ["ids", "errors", "causes", "config", "os_linux", "env_vars", "frames", "plain_numbers", "sources"]
WORDS = ["messages", "codec", "serialization", "pickler", "pickled_caches", "unpicklable", "signatures"]
MACHINES = ["owner", "sched", "store", "gcs", "transport"]
COMPOSITION = ["core", "node", "worker"]

# What a module or package may import of zray; itself is always allowed.  Not listed: free to import anything but sim.
MAY_IMPORT: dict[str, list[str]] = {
    "ids": [],
    "errors": [],
    "causes": [],
    "config": ["plain_numbers"],
    "plain_numbers": [],
    "os_linux": [],
    "env_vars": [],
    "frames": [],
    "sources": [],
    "messages": [*GROUND],
    "codec": [*GROUND, "messages"],
    "serialization": [*GROUND, "pickler", "unpicklable"],
    "pickler": [*GROUND, "serialization", "pickled_caches", "unpicklable"],
    "pickled_caches": [],
    "unpicklable": [*GROUND, "serialization", "pickler"],
    "signatures": [],
    "owner": [*GROUND, *WORDS],
    "sched": [*GROUND, *WORDS],
    "store": [*GROUND, *WORDS],
    "gcs": [*GROUND, *WORDS],
    "transport": [*GROUND],  # it knows bytes and peers, not message classes
    "refs": [*GROUND, *WORDS, "owner"],
    "options": [*GROUND, "sched"],
    "connection": [*GROUND, "refs", "api"],
    "handles": [*GROUND, *WORDS, "refs", "options", "connection"],
    "core": [*GROUND, *WORDS, *MACHINES, "refs", "options", "handles", "stacks"],  # handles: it makes them
    "node": [*GROUND, *WORDS, *MACHINES, "worker", "stacks"],
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def area(path: Path) -> str:
    """``zray/owner/tasks.py`` -> owner, ``zray/ids.py`` -> ids."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """First-level names of zray that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    guarded = {id(node) for guard in guards for inner in guard.body for node in ast.walk(inner)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "zray":
            names = [f"zray.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            assert not isinstance(node, ast.ImportFrom), f"{path} uses a relative import"
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("zray.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    here = area(path)
    used = imports(path) - {here}
    assert "sim" not in used, "the runtime never imports the simulator"
    if here in MAY_IMPORT:
        assert used <= set(MAY_IMPORT[here]), f"{path.relative_to(ROOT)} imports {sorted(used - set(MAY_IMPORT[here]))}"


def test_machines_do_not_import_each_other():
    for path in modules():
        if area(path) in MACHINES:
            assert not (imports(path) & set(MACHINES)) - {area(path)}, path


def test_nobody_below_imports_the_public_surface():
    for path in modules():
        if area(path) in {*GROUND, *WORDS, *MACHINES}:
            assert not imports(path) & {"api", "handles", "util", *COMPOSITION}, path
