"""Commands in a real terminal: tmux has the window, the keys, and what is on the screen."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.scripts import environment
from tests.e2e.target import ray, until

pytest.importorskip("click")
pytestmark = [pytest.mark.zray_only,
              pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: apt install tmux")]


class Terminal:
    """One window of a tmux server of its own; it stays when its command has ended."""

    def __init__(self, folder: Path):
        self._socket = str(folder / "tmux")
        self._code = folder / "exit-code"

    def tmux(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["tmux", "-S", self._socket, "-f", "/dev/null", *arguments], capture_output=True,
                              text=True, env=environment(), timeout=30)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *command: str, columns: int = 80, rows: int = 24, **env: str) -> None:
        words = shlex.join(["env", *(f"{name}={value}" for name, value in env.items()), *command])
        # The shell notes the exit code, since tmux sometimes misses that of a pane's process.
        shell = f"trap '' INT; (trap - INT; exec {words}); echo $? > {shlex.quote(str(self._code))}; exec cat"
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), shlex.join(["sh", "-c", shell]))

    @property
    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    @property
    def exit_code(self) -> str:
        """'' while the command runs."""
        return self._code.read_text().strip() if self._code.exists() else ""

    def close(self) -> None:
        self.tmux("kill-server", check=False)


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture
def busy(cluster, gate):
    @ray.remote(num_cpus=1)
    def holds(gate):
        gate.wait()

    ref = holds.remote(gate)
    gate.wait_arrived(1)
    yield ray.get_runtime_context().get_temp_dir()
    gate.open()
    ray.get(ref)


def zray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "zray.cli", *arguments]


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_top_is_live_fits_the_window_and_ends_with_a_key(terminal, busy, key):
    terminal.start(*zray("top", "--interval", "0.2", "--address", busy))
    until(lambda: "holds" in terminal.screen and "q quits" in terminal.screen, lambda: terminal.screen)
    assert terminal.screen.startswith("zray top  ")
    terminal.tmux("resize-window", "-x", "40", "-y", "15")
    until(lambda: "q quits" in terminal.screen and "…" in terminal.screen.splitlines()[0], lambda: terminal.screen)
    assert max(map(len, terminal.screen.splitlines())) <= 40
    terminal.tmux("send-keys", key)
    until(lambda: terminal.exit_code == "0", lambda: f"{terminal.exit_code} {terminal.screen}")
    assert "q quits" not in terminal.screen, "the screen is as before"


def test_status_takes_the_width_of_the_window_and_no_colours(terminal, busy):
    terminal.start(*zray("status", "--address", busy), columns=40, rows=50, NO_COLOR="1")
    until(lambda: terminal.exit_code == "0", lambda: terminal.screen)
    said = terminal.tmux("capture-pane", "-p", "-e")
    assert said.startswith("runs: 1 task\n") and "  holds" in said and "\x1b[3" not in said, said


def test_a_dumb_terminal_gets_one_picture(terminal, busy):
    terminal.start(*zray("top", "--address", busy), rows=60, TERM="dumb")
    until(lambda: terminal.exit_code == "0", lambda: terminal.screen)
    assert "holds" in terminal.screen and "q quits" not in terminal.screen
