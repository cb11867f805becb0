"""The README and the guides name files, modules and pages that exist, and the picture of the layers is true."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.unit.test_layers import LAYERS

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
         *sorted((ROOT / "docs").rglob("*.md"))]
# Runs of the benchmarks make this folder.
NOT_FILES = {"benchmarks/results"}


@cache
def words(file: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", file.read_text(encoding="utf-8")))


@cache
def anchors(file: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings)


def paths(text: str) -> set[str]:
    found = re.findall(r"(?<![\w/.-])((?:zray|tests|fuzz|benchmarks|examples|docs)/[\w./-]+)", text)
    return {path.rstrip(".") for path in found}


def unknown_names(text: str) -> set[str]:
    """Of the names ``zray.a.b`` in ``text``, those whose module does not exist or does not have the word ``b``."""
    wrong = set()
    for name in set(re.findall(r"(?<![\w./-])zray(?:\.[A-Za-z_]\w*)+", text)):
        file, word = module(name)
        if word and word not in words(file):
            wrong.add(name)
    return wrong


def module(name: str) -> tuple[Path, str]:
    """The file of the longest module that ``name`` begins with, and the next part of the name."""
    word = ""
    while True:
        file = ROOT / name.replace(".", "/")
        if (file / "__init__.py").exists():
            return file / "__init__.py", word
        if file.with_suffix(".py").exists():
            return file.with_suffix(".py"), word
        name, _, word = name.rpartition(".")


def misplaced(text: str) -> set[tuple[str, str]]:
    """Of phrases such as "`a` and `b` in `zray/c.py`", the names that the file does not have."""
    phrase = r"((?:`[\w.]+`(?:,|,? and)? )+)(?:in |of |\()`((?:zray|tests|fuzz)/[\w/]+\.py)`"
    return {(word, file) for names, file in re.findall(phrase, " ".join(text.split()))
            for name in re.findall(r"`([\w.]+)`", names) for word in name.split(".") if word not in words(ROOT / file)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not {path for path in paths(text) - NOT_FILES if not (ROOT / path).exists()}, "no such file"
    assert not unknown_names(text), "no such name"
    assert not misplaced(text), "the file does not have the name"
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"no page for the link {link}"
        assert not anchor or anchor in anchors(target), f"no heading for the link {link}"


def test_pages_about_the_code_use_its_names():
    """Each `word` in backticks occurs in the source."""
    known = frozenset().union(*(words(file) for folder in ("zray", "tests", "fuzz")
                                for file in (ROOT / folder).rglob("*.py")))
    wrong = {}
    for page in PAGES:
        if page.parent.name == "internals" or page.stem in ("architecture", "contributing", "glossary", "internals"):
            prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
            for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", prose):
                if not known.issuperset(name.split(".")):
                    wrong.setdefault(page.name, set()).add(name)
    assert not wrong, "no such name in the code"


def test_the_picture_of_the_layers_has_the_layers_of_the_code_from_the_top():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.sub(r"\n {9,}", " ", text.partition("## Layers")[2].split("```")[1])  # a row may have several lines
    rows = [re.split(r"  +", line.strip(), maxsplit=1) for line in picture.strip().splitlines()]
    assert [name for name, _ in rows] == [name for name, _ in reversed(LAYERS)]
    for (name, shown), (_, areas) in zip(rows, reversed(LAYERS), strict=True):
        assert set(areas) <= set(re.findall(r"\w+", shown)), f"the layer {name!r} lacks some of these"
