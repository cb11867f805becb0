"""The Python in the README and the guides runs as printed."""

from __future__ import annotations

import re

import pytest

from tests.e2e.scripts import ROOT, run_script
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the pages import zray")

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = [str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
         if BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, session_root):
    run_script(tmp_path, "\n".join(BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))))


def test_the_commands_of_the_readme_are_those_of_the_project():
    readme = (ROOT / "README.md").read_text()
    assert ".venv/bin/zray demo" in readme
    assert "'.[test]' && .venv-test/bin/python -m pytest" in readme
    together = "-n 2 --dist loadfile"
    assert together in readme and together in (ROOT / ".ci" / "run").read_text()
