"""The installer of a node: what it cannot do is the error of that environment."""

from __future__ import annotations

import json

import pytest

from zray.environments import setup
from zray.node.effects import InstallEnvironment
from zray.node.environments.installer import Installer, InstallerPorts
from zray.node.processes.linux import Ended


class Installing:
    """An installer whose process is a fake, and its answers: ("installed" | "failed", number, ...)."""

    def __init__(self, session_dir):
        self.answers = []
        self.end = None
        self.root = session_dir / "environments"
        (session_dir / "logs").mkdir()
        self.installer = Installer(str(session_dir), {}, 4, InstallerPorts(
            get_package=None, watch=self.watch, note=lambda text: None,
            installed=lambda *how: self.answers.append(("installed", *how)),
            failed=lambda *how: self.answers.append(("failed", *how))))
        self.installer._spawn = lambda task, name, environ: 7

    def watch(self, pid, ended):
        self.end = ended

    def install(self, **env):
        self.installer.install(InstallEnvironment(1, setup.setup_of(env), 1, {}))

    def built(self, equipment):
        (self.root / "answer-1").write_text(json.dumps({"equipment": equipment, "sizes": {}}))
        self.end(Ended(0, 0))


@pytest.fixture
def installing(tmp_path):
    return Installing(tmp_path)


@pytest.mark.parametrize("parts", [{}, {"pip": {"packages": ["x"]}}], ids=["alone", "after a build"])
def test_a_command_of_python_is_split_as_a_shell_does_and_one_that_cannot_be_split_fails(installing, parts):
    for command in ("python '-X dev'", "python 'x"):
        installing.install(py_executable=command, **parts)
        if parts:
            installing.built({"venv": "/v"})
    done, failed = installing.answers
    assert done[:2] == ("installed", 1) and done[2]["python"] == ["python", "-X dev"]
    assert failed == ("failed", 1, "ValueError: No closing quotation", False)
