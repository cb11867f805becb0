"""What workers print is shown in the test or cell that caused it, folded by the rule, and complete at the end."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from tests.e2e.scripts import environment, run_script
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the scripts import zray")

SUITE = """
import logging
import pytest
import zray as ray

@ray.remote
def say(words):
    print("task says", words)
    logging.warning("task warns %s", words)

@ray.remote
class Actor:
    def __init__(self):
        print("constructed")

@pytest.fixture(scope="module", autouse=True)
def session():
    ray.init(num_cpus=1)
    yield
    ray.shutdown()

@pytest.fixture
def made():
    actor = Actor.remote()
    ray.get(actor.__ray_ready__.remote())
    return actor

@pytest.mark.parametrize("n", range(3))
def test_one(n):
    ray.get(say.remote(f"n={n}"))
    assert 0

def test_two(made):
    assert 0
"""


def test_pytest_captures_the_output_of_workers_with_the_test_that_caused_it(tmp_path, session_root):
    (tmp_path / "test_suite.py").write_text(SUITE)
    named = {point.name for point in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if "zray" in named else ["-p", "zray.util.pytest_output"]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *plugin, "test_suite.py"], cwd=tmp_path, text=True,
                          env=environment(), capture_output=True, timeout=100)
    assert "4 failed" in done.stdout, done.stdout + done.stderr
    sections = done.stdout.split("\n___")[1:]  # each ends before a line end
    assert len(sections) == 4
    for n, section in enumerate(sections[:3]):
        assert section.count("task says") == section.count("task warns") == 1, section
        assert f"task says n={n}\n" in section and f"task warns n={n}\n" in f"{section}\n"
    assert "Captured stdout setup" in sections[3] and "constructed" in sections[3]


def test_a_cell_shows_the_output_of_its_own_tasks(session_root):
    nbclient = pytest.importorskip("nbclient", reason="the extra 'notebook' is not installed")
    nbformat = pytest.importorskip("nbformat")
    cells = ["import zray as ray\nray.init(num_cpus=1)\n@ray.remote\ndef say(n):\n    print('task says', n)\nNone",
             *[f"ray.get(say.remote({n}))" for n in range(3)], "print('own')", "ray.shutdown()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert [text.rpartition(") ")[2] for text in printed] == [
        "", "task says 0\n", "task says 1\n", "task says 2\n", "own\n", ""], printed


def test_nothing_is_lost_at_the_end_and_the_counts_come_too(tmp_path, session_root):
    done = run_script(tmp_path, """
        import zray as ray

        @ray.remote(num_cpus=0)
        class Speaker:
            def say(self, n):
                print("the same")
                print()
                print("line", n)

        ray.init(num_cpus=1)
        speakers = [Speaker.remote() for _ in range(3)]
        ray.get([speaker.say.remote(n) for n, speaker in enumerate(speakers)])
        """)
    lines = [line.partition(") ")[2] for line in done.stdout.splitlines()]
    assert [line for line in lines if line.startswith("line")] and {f"line {n}" for n in range(3)} <= set(lines)
    assert lines.count("") == 3 and lines.count("the same") == 1
    assert lines[-1] == "the same [repeated 2x across processes; ZRAY_DEDUP_LOGS=0 shows each]"


def test_a_log_of_a_worker_is_bounded_by_the_setting(tmp_path, session_root):
    done = run_script(tmp_path, """
        import glob, os, zray as ray

        context = ray.init(num_cpus=1, _system_config={"log_bytes_max": 1 << 16}, log_to_driver=False)

        @ray.remote
        def talk():
            for n in range(20_000):
                print("line", n)

        ray.get(talk.remote())
        ray.shutdown()
        [size] = [os.path.getsize(path) for path in glob.glob(context["session_dir"] + "/logs/worker*.out")]
        print(size)
        """)
    assert int(done.stdout) < 3 << 16
