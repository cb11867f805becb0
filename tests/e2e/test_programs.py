"""Programs print on zray what they print on real Ray.

What Ray prints is in ``tests/e2e/printed``.  Where ``ZRAY_TEST_RAY_PYTHON`` names an environment with Ray, the slow
tests run the programs on it again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.differential import (
    PROGRAMS,
    RAY_PYTHON,
    Program,
    copied_for_ray,
    lines_of,
    ray_cluster,
    ray_environment,
    run_on_ray,
    run_on_zray,
)
from tests.e2e.scripts import ROOT, environment
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the programs import zray")
needs_ray = pytest.mark.skipif(not RAY_PYTHON, reason="ZRAY_TEST_RAY_PYTHON names no environment with Ray")

# Cases of programs/failures.py in which zray differs, and why.
BETTER = {
    "a_task_raises_an_exception_of_two_arguments": "the exception arrives, where Ray cannot unpickle it",
    "a_method_that_does_not_exist": "says the actor's class and the nearest method",
    "a_task_of_a_removed_group": "fails at once, where Ray waits for ever",
    "an_actor_of_a_removed_group": "a subclass of Ray's type says that the group was removed",
    "a_full_queue": "the exception itself, not a RayTaskError of an actor inside",
    "an_unknown_init_argument": "says the nearest name",
    "a_decorator_with_a_position": "TypeError, where Ray asserts",
    "an_unknown_method_option": "lists the options, where Ray asserts",
    "too_many_pending_calls": "says the class too",
    "a_name_that_is_taken": "says the namespace that is in use",
}
# The first words of these depend on whether the task ran already.
DEPENDS_ON_TIMING = {"a_cancelled_task"}
KNOWN = BETTER.keys() | DEPENDS_ON_TIMING


def cases(lines: list[str]) -> dict[str, str]:
    return {name: rest for name, _, rest in (line.partition(": ") for line in lines)}


def differences(seen: list[str], expected: list[str]) -> list[str]:
    """Cases that differ for no known reason, as lines of a report."""
    ours, rays = cases(seen), cases(expected)
    assert list(ours) == list(rays)
    return [f"{name}\n  Ray:  {rays[name]}\n  zray: {ours[name]}" for name in rays
            if ours[name] != rays[name] and name not in KNOWN]


def check(program: Program, seen: list[str], expected: list[str]) -> None:
    if program.name == "failures":
        report = differences(seen, expected)
        assert not report, "\n".join(report)
    else:
        assert seen == expected


def zray_prints(program: Program) -> list[str]:
    done = run_on_zray(program)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return lines_of(program, done.stdout)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if not p.is_varying], ids=lambda program: program.name)
def test_a_program_prints_what_it_prints_on_ray(program, session_root):
    check(program, zray_prints(program), lines_of(program, program.printed.read_text(encoding="utf-8")))


def test_each_known_difference_names_a_case():
    failures = next(program for program in PROGRAMS if program.name == "failures")
    assert KNOWN <= cases(lines_of(failures, failures.printed.read_text(encoding="utf-8"))).keys()


def run_pytest(python: str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], cwd=folder, text=True,
                          capture_output=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_suite_of_pytest_with_fixtures(session_root):
    folder = ROOT / "examples" / "testing"
    assert "9 passed" in run_pytest(sys.executable, folder, environment(PYTHONWARNINGS="default"))


def test_a_notebook_runs_from_the_first_cell_to_the_last(session_root):
    nbclient = pytest.importorskip("nbclient", reason="the extra 'notebook' is not installed")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    env = environment(PYTHONWARNINGS="default")
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
                            ).execute(env=env)
    shown = [output.get("text") or output["data"]["text/plain"]
             for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert shown == ["[0, 3, 6, 9]", "[0, 5, 10, 15]", "[1, 11, 111]", "RayTaskError(KeyError) True ('lost',)\n",
                     "[0, 1, 4, 9]", "False"]


# ---- on real Ray


@pytest.fixture(scope="module")
def on_ray():
    with copied_for_ray("examples", "tests/e2e/programs") as copies, ray_cluster() as address:
        yield copies, address


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_ray_prints_the_same(program, on_ray, session_root):
    done = run_on_ray(program, *on_ray)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    seen = lines_of(program, done.stdout)
    if program.is_varying:  # counts words of the interpreter's own library
        assert seen == zray_prints(program)
        return
    expected = lines_of(program, program.printed.read_text(encoding="utf-8"))
    if program.name == "failures":
        rays, kept = cases(seen), cases(expected)
        assert kept.keys() <= rays.keys(), "Ray's log of a retry may come in between, and looks like more cases"
        assert {name for name in kept if rays[name] != kept[name]} <= DEPENDS_ON_TIMING
    else:
        assert seen == expected


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_suite_of_pytest_passes_on_ray(on_ray):
    if subprocess.run([RAY_PYTHON, "-c", "import pytest"], capture_output=True).returncode:
        pytest.skip("the environment with Ray has no pytest")
    copies, _ = on_ray
    assert "9 passed" in run_pytest(RAY_PYTHON, copies / "examples" / "testing", ray_environment())
