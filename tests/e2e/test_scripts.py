"""Programs as users write them: scripts, modules beside them, interactive shells, pytest, notebooks' event loops."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.e2e.scripts import environment, run_script
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the scripts import zray")


def test_a_script_with_functions_classes_and_closures_of_main(tmp_path, session_root):
    done = run_script(tmp_path, """
        import zray as ray
        from dataclasses import dataclass

        FACTOR = 3

        @dataclass
        class Point:
            x: int

        def scale(p):
            return Point(p.x * FACTOR)

        @ray.remote
        def task(p):
            return scale(p)

        @ray.remote
        class Keeper:
            def __init__(self):
                self.points = []
            def keep(self, p):
                self.points.append(p)
                return self.points

        if __name__ == "__main__":
            keeper = Keeper.remote()
            print(ray.get(keeper.keep.remote(task.remote(Point(2)))))
            assert isinstance(ray.get(task.remote(Point(1))), Point)
    """)
    assert done.stdout.strip() == "[Point(x=6)]"


def test_a_module_beside_the_script_is_imported_in_workers(tmp_path, session_root):
    (tmp_path / "utils.py").write_text("def helper(x):\n    return x + 1\n")
    done = run_script(tmp_path, """
        import zray as ray
        import utils

        @ray.remote
        def task(x):
            import os
            return utils.helper(x), os.getcwd()

        value, where = ray.get(task.remote(1))
        import os
        assert where == os.getcwd(), where
        print(value, ray.get(ray.remote(utils.helper).remote(10)))
    """)
    assert done.stdout.split() == ["2", "11"]


def test_a_module_run_with_minus_m(tmp_path, session_root):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("VALUE = 5\n")
    (package / "__main__.py").write_text(textwrap.dedent("""
        import zray as ray
        from package.part import VALUE
        from package import part

        @ray.remote
        def task():
            return VALUE + part.VALUE

        print(ray.get(task.remote()))
    """))
    done = subprocess.run([sys.executable, "-m", "package"], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, timeout=60)
    assert done.stdout.strip() == "10", done.stderr


def test_a_program_from_standard_input(tmp_path, session_root):
    program = "import zray as ray\nprint(ray.get(ray.remote(lambda: 6 * 7).remote()))\n"
    done = subprocess.run([sys.executable, "-"], input=program, cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, timeout=60)
    assert done.stdout.strip() == "42", done.stderr


def test_definitions_edited_between_calls_as_in_a_notebook(tmp_path, session_root):
    """exec in one namespace is what IPython does with cells."""
    done = run_script(tmp_path, """
        import zray as ray
        cells = [
            "@ray.remote\\ndef f(): return helper()\\ndef helper(): return 'old'",
            "print(ray.get(f.remote()))",
            "def helper(): return 'new'\\n@ray.remote\\ndef f(): return helper()",
            "print(ray.get(f.remote()))",
        ]
        for cell in cells:
            exec(compile(cell, "<cell>", "exec"), globals())
    """)
    assert done.stdout.split() == ["old", "new"]


def test_a_program_inside_a_running_event_loop(tmp_path, session_root):
    done = run_script(tmp_path, """
        import asyncio
        import zray as ray

        @ray.remote
        def f(x):
            return x

        async def main():
            ray.init(num_cpus=1)
            blocking = ray.get(f.remote(1))
            awaited = await f.remote(2)
            gathered = await asyncio.gather(*[f.remote(i) for i in range(3)])
            ray.shutdown()
            return blocking, awaited, gathered

        print(asyncio.run(main()))
    """)
    assert done.stdout.strip() == "(1, 2, [0, 1, 2])"


def test_a_test_module_under_pytest(tmp_path, session_root):
    (tmp_path / "test_user.py").write_text(textwrap.dedent("""
        import pytest
        import zray as ray

        @pytest.fixture(scope="module")
        def session():
            ray.init(num_cpus=1)
            yield
            ray.shutdown()

        @ray.remote
        def double(x):
            return 2 * x

        def test_double(session):
            assert ray.get(double.remote(4)) == 8
    """))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_user.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_output_of_workers_reaches_the_driver_whole(tmp_path, session_root):
    done = run_script(tmp_path, """
        import sys
        import zray as ray

        @ray.remote
        def talk(i):
            print("line", i)
            print("warning", i, file=sys.stderr)

        ray.get([talk.remote(i) for i in range(50)])
    """)
    everything = done.stdout + done.stderr
    for i in range(50):
        assert f"line {i}\n" in everything
        assert f"warning {i}\n" in everything
    assert "(talk pid=" in everything


def test_a_script_that_ends_without_shutdown_ends_cleanly(tmp_path, session_root):
    done = run_script(tmp_path, """
        import zray as ray
        ray.init(num_cpus=1)
        ref = ray.remote(lambda: 1).remote()
        actor = ray.remote(type("A", (), {"f": lambda self: 1})).remote()
        print(ray.get(ref), ray.get(actor.f.remote()))
    """)
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.strip() == ""


def test_a_script_that_raises_ends_with_its_traceback_and_nothing_else(tmp_path, session_root):
    done = run_script(tmp_path, """
        import zray as ray

        @ray.remote
        def fail():
            raise ValueError("the end")

        ray.get(fail.remote())
    """, check=False)
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert "the end" in done.stderr


def test_import_is_light(tmp_path, session_root):
    done = run_script(tmp_path, """
        import sys
        import zray
        print(sorted({"numba", "llvmlite", "numpy"} & set(sys.modules)))
    """)
    assert done.stdout.strip() == "[]"


def test_random_numbers_differ_between_workers_even_when_the_driver_is_seeded(tmp_path, session_root):
    done = run_script(tmp_path, """
        import random
        import zray as ray
        random.seed(0)

        @ray.remote
        class Draw:
            def draw(self):
                import random
                return random.random()

        print(len(set(ray.get([d.draw.remote() for d in [Draw.remote() for _ in range(5)]]))))
    """)
    assert done.stdout.strip() == "5"


def test_a_fork_of_the_driver_does_not_disturb_it(tmp_path, session_root):
    done = run_script(tmp_path, """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork of a process with threads
        import zray as ray

        @ray.remote
        def f(x):
            return x

        assert ray.get(f.remote(1)) == 1
        child = os.fork()
        if child == 0:
            os._exit(0 if 1 + 1 == 2 else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        print(ray.get([f.remote(i) for i in range(100)]) == list(range(100)))
    """, PYTHONWARNINGS="default")
    assert done.stdout.strip() == "True"


def test_two_drivers_at_once_have_sessions_of_their_own(tmp_path, session_root):
    source = textwrap.dedent("""
        import sys
        import zray as ray

        @ray.remote
        class Name:
            def read(self):
                return sys.argv[1]

        named = Name.options(name="the one").remote()
        print(ray.get(ray.get_actor("the one").read.remote()), flush=True)
        sys.stdin.read()
    """)
    (tmp_path / "driver.py").write_text(source)
    drivers = [subprocess.Popen([sys.executable, "driver.py", name], cwd=tmp_path, env=environment(), text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE) for name in ("a", "b")]
    first_lines = [driver.stdout.readline() for driver in drivers]
    for driver in drivers:
        driver.communicate(timeout=30)
    assert len(first_lines) == 2
    assert all(first_lines)
    assert [driver.returncode for driver in drivers] == [0, 0]
