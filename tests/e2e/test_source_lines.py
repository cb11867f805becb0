"""Errors, logs, stacks and ``inspect`` of workers name the user's file, line and source, and show no frame of zray."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.e2e.scripts import ROOT, environment, run_script
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the scripts import zray")

TASKS = """
import inspect, logging, sys
import zray as ray

def helper(x):
    return 1 / x  # the line to find

@ray.remote
def task():
    return helper(0)

@ray.remote
class Actor:
    def method(self):
        return helper(0)

@ray.remote
class Async:
    async def method(self):
        return helper(0)

@ray.remote(max_concurrency=2)
class Threaded:
    def method(self):
        return helper(0)

@ray.remote
class Broken:
    def __init__(self):
        helper(0)
    def method(self):
        pass

@ray.remote
def items():
    yield helper(0)

def say_where(name):
    calls = [task.remote(), Actor.remote().method.remote(), Async.remote().method.remote(),
             Threaded.remote().method.remote(), Broken.remote().method.remote(), next(items.remote()),
             task.options(num_returns=2).remote()[1]]
    for call in calls:
        try:
            ray.get(call)
        except Exception as error:
            text = str(error)
            assert f'{name}", line 6, in helper' in text and "1 / x  # the line to find" in text, text
            assert "/zray/worker/" not in text and "dynamic-code" not in text, text
        else:
            raise SystemExit("no error")
    print("said", len(calls))

@ray.remote
def where():
    record = logging.getLogger().makeRecord("n", 20, *logging.getLogger().findCaller()[:2], "m", (), None)
    return helper.__code__.co_filename, record.filename, inspect.getsource(helper)
"""


def test_of_a_script(tmp_path, session_root):
    done = run_script(tmp_path, TASKS + textwrap.dedent("""
        say_where("train.py")
        file, logged, source = ray.get(where.remote())
        assert file == __file__ and logged == "train.py" and "the line to find" in source
    """))
    assert done.stdout == "said 7\n"


def test_inspect_finds_a_class_of_a_script_and_spawned_processes_do_not_run_the_script(tmp_path, session_root):
    done = run_script(tmp_path, """
        import concurrent.futures, inspect, math, multiprocessing
        import zray as ray

        with open("runs", "a") as file:
            file.write("once ")

        class Thing:
            def method(self):
                return "the line to find"

        @ray.remote
        class Actor:
            def source(self):
                return inspect.getsource(type(self)), inspect.getsource(Thing)

        @ray.remote
        def spawn(method):
            context = multiprocessing.get_context(method)
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                return pool.submit(math.sqrt, 9).result()

        own, other = ray.get(Actor.remote().source.remote())
        assert own.lstrip().startswith("@ray.remote") or own.lstrip().startswith("class Actor"), own
        assert other.startswith("class Thing:") and "the line to find" in other
        print(ray.get([spawn.remote("spawn"), spawn.remote("forkserver")]), open("runs").read())
    """, TMPDIR=session_root)  # a forkserver makes a folder there, and the end of the session kills its worker
    assert done.stdout == "[3.0, 3.0] once \n"


def test_of_a_notebook_whose_cells_are_in_no_file(tmp_path, session_root):
    (tmp_path / "cell").write_text(TASKS)
    done = run_script(tmp_path, """
        import linecache
        name = "/tmp/ipykernel_1234/5678.py"
        source = open("cell").read()
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        exec(compile(source, name, "exec"))
        say_where("/tmp/ipykernel_1234/5678.py")
        file, logged, source = ray.get(where.remote())
        assert file == name and logged == "5678.py" and "the line to find" in source
    """)
    assert done.stdout == "said 7\n"


def test_of_a_doctest(tmp_path, session_root):
    done = run_script(tmp_path, '''
        """
        >>> import zray as ray
        >>> @ray.remote
        ... def task(x):
        ...     return 1 / x  # the line to find
        >>> try: ray.get(task.remote(0))
        ... except ZeroDivisionError as error: print("the line to find" in str(error), "<doctest" in str(error))
        True True
        """
        import doctest
        print(doctest.testmod())
    ''')
    assert "failed=0" in done.stdout, done.stdout


@pytest.mark.parametrize("way", ["-c", "stdin"])
def test_of_a_program_without_a_file(tmp_path, session_root, way):
    program = TASKS + f"say_where({'<string>' if way == '-c' else '<stdin>'!r})\n"
    (tmp_path / "program").write_text(program)
    with open(tmp_path / "program") as file:
        done = subprocess.run([sys.executable, *(("-c", program) if way == "-c" else ())], cwd=tmp_path, text=True,
                              env=environment(), stdin=file, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "said 7\n"


def test_of_a_test_module(tmp_path, session_root):
    (tmp_path / "test_it.py").write_text(TASKS + textwrap.dedent("""
        def test_where():
            say_where("test_it.py")

        def test_that_fails():
            ray.get(task.remote())
    """))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"], cwd=tmp_path,
                          env=environment(), text=True, capture_output=True, timeout=120)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "1 / x  # the line to find" in done.stdout and "dynamic-code" not in done.stdout
    assert f"{ROOT / 'zray'}" not in done.stdout, "the frames of zray are hidden from the report"


def test_all_frames_are_shown_on_request(tmp_path, session_root):
    done = run_script(tmp_path, """
        import zray as ray

        @ray.remote
        def task():
            return 1 / 0

        for env in ({}, {"ZRAY_FULL_TRACEBACKS": "1"}):
            try:
                ray.get(task.options(runtime_env={"env_vars": env}).remote())
            except ZeroDivisionError as error:
                print("/zray/worker/" in str(error))
    """)
    assert done.stdout == "False\nTrue\n"
