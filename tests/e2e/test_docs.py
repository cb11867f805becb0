"""The Python in the README and the guides runs as printed."""

from __future__ import annotations

import re

import pytest

from tests.e2e.scripts import ROOT, run_script
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the pages import zray")


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md", "docs/scheduling.md", "docs/cluster.md",
                                  "docs/environments.md", "docs/drop-ins.md", "docs/state.md", "docs/resume.md",
                                  "docs/logs.md", "docs/metrics.md", "docs/timeline.md", "docs/dashboard.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, session_root):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    run_script(tmp_path, "\n".join(blocks))


def test_the_commands_of_the_readme_are_those_of_the_project():
    readme = (ROOT / "README.md").read_text()
    assert ".venv/bin/zray demo" in readme
    assert "'.[test]' && .venv-test/bin/python -m pytest" in readme
