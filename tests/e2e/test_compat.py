"""Programs written for Ray run with no line changed: import ray is zray, in workers and subprocesses too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.scripts import environment, run_script
from tests.e2e.target import ray

pytestmark = pytest.mark.zray_only
COMPAT = ("-m", "zray")
# What a Ray that is installed beside looks like: it must not even be imported.
OTHER_RAY = {"ray/__init__.py": "raise AssertionError('another ray was imported')\n",
             "ray-9.9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: ray\nVersion: 9.9.9\n"}
ASK = "import importlib.metadata as m; v = m.version('ray'); import ray, ray.util.queue; print(v, ray.__name__)"


@pytest.fixture
def session(cluster):
    """The directory of a session that runs, and was started by a program without zray.compat."""
    return ray.get_runtime_context().gcs_address


def lay_out(directory, files):
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def python(*arguments, code=0, cwd=None, **env):
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment(**env), text=True, capture_output=True,
                          timeout=60)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_a_program_and_its_workers_and_their_modules(session, tmp_path):
    lay_out(tmp_path, {**{f"beside/{name}": text for name, text in OTHER_RAY.items()}, "helper.py": """
import ray
from ray.exceptions import RayTaskError

@ray.remote
def fail():
    raise KeyError("lost")
"""})
    done = run_script(tmp_path, """
import importlib, importlib.metadata, importlib.util, pickle, sys

assert importlib.metadata.version("ray") == "2.60.0" and importlib.util.find_spec("ray.util.queue")
import ray
import ray.util.queue as queue
import zray, zray.util.queue
from ray.util import ActorPool
from ray.util.placement_group import placement_group
import ray.util.actor_pool as module
import helper

assert ray is zray and queue is zray.util.queue and ray.util is zray.util and ray.__version__ == "2.60.0"
assert ray.util.placement_group is placement_group and module.ActorPool is ActorPool
assert importlib.import_module("ray.util.placement_group").placement_group is placement_group
assert ray.exceptions.RayError is zray.exceptions.RayError
assert pickle.loads(b"cray.exceptions\\nGetTimeoutError\\n.") is zray.exceptions.GetTimeoutError
assert pickle.loads(b"cray._raylet\\nJobID\\n.") is zray.JobID
assert importlib.import_module("ray.util.actor_pool").ActorPool is ActorPool
ray.init()

@ray.remote
def seen():
    import ray.util.queue
    import importlib.metadata
    return ray.__name__, ray.__version__, importlib.metadata.version("ray"), ray.util.queue.Queue is queue.Queue

@ray.remote
class Holds:
    def __init__(self, ref):
        assert isinstance(ref, list) and isinstance(ref[0], ray.ObjectRef)

    def ready(self):
        return "ready"

print(*ray.get(seen.remote()), ray.get(Holds.remote([ray.put(1)]).ready.remote()))
try:
    ray.get(helper.fail.remote())
except ray.exceptions.RayTaskError as error:
    assert isinstance(error, KeyError) and isinstance(error, helper.RayTaskError)
    print("caught", sys.argv[1])
""", "one", python=COMPAT, PYTHONPATH=str(tmp_path / "beside"), ZRAY_ADDRESS=session)
    assert done.stdout.splitlines() == ["zray 2.60.0 2.60.0 True ready", "caught one"]


def test_processes_that_the_program_and_its_workers_start(session, tmp_path):
    lay_out(tmp_path, {"child.py": """
import ray
from ray.util.queue import Queue

def where(_):
    import importlib.metadata
    return ray.__name__, importlib.metadata.version("ray"), Queue.__module__
"""})
    done = run_script(tmp_path, f"""
import multiprocessing, os, subprocess, sys
import child
import ray

def asks():
    done = subprocess.run([sys.executable, "-c", {ASK!r}], capture_output=True, text=True)
    return done.stdout + done.stderr

def starts(kind):
    with multiprocessing.get_context(kind).Pool(1) as pool:
        return asks(), pool.map(child.where, [0])

if __name__ == "__main__":
    ray.init()
    expected = ("2.61 zray\\n", [("zray", "2.61", "zray.util.queue")])
    elsewhere = ray.remote(runtime_env={{"env_vars": {{"PYTHONPATH": "/nowhere", "LANG": "C"}}}})(asks).remote()
    in_worker = ray.remote(starts).remote("spawn")
    assert starts("forkserver") == expected
    assert ray.get(in_worker) == expected and ray.get(elsewhere) == expected[0]
    command = subprocess.run(["ray", "--version"], capture_output=True, text=True)
    assert command.stdout + command.stderr == "ray, version 2.61\\n"
""", python=COMPAT, ZRAY_ADDRESS=session, ZRAY_RAY_VERSION="2.61",
                      timeout_s=100)
    assert done.returncode == 0


def test_names_that_zray_lacks_say_so_and_fallbacks_of_programs_work(tmp_path):
    done = run_script(tmp_path, """
import importlib.util
import ray

def said(statement):
    try:
        exec(statement, {"ray": ray})
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

for statement in ("import ray.data", "from ray import tune", "from ray.serve.handle import X", "ray.data",
                  "import ray.no_such_thing", "from ray import no_such_thing"):
    print(said(statement))
try:
    from ray import data
except ImportError:
    data = None
assert data is None and not hasattr(ray, "rllib") and importlib.util.find_spec("ray.data") is None
""", python=COMPAT)
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"ModuleNotFoundError: ray.{name} is not in zray yet" for name in ("data", "tune", "serve")]
    assert lines[3] == "AttributeError: module 'zray' has no attribute 'data': ray.data is not in zray yet"
    assert lines[4] == "ModuleNotFoundError: No module named 'ray.no_such_thing'"
    assert lines[5].startswith("ImportError: cannot import name 'no_such_thing' from 'zray'")


def test_without_compat_import_ray_is_the_ray_that_is_installed(tmp_path):
    lay_out(tmp_path, OTHER_RAY)
    beside = {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    said = python("-c", "import zray, importlib.metadata as m; print(m.version('ray'), zray.__version__); import ray",
                  code=1, **beside)
    assert said.startswith("9.9.9 0.1.0") and "another ray was imported" in said
    assert python("-m", "zray", "-c", ASK, **beside) == "2.60.0 zray\n"


def test_install_by_the_program_itself(tmp_path):
    done = run_script(tmp_path, f"""
import subprocess, sys
import zray.compat
from zray import __version__ as own

zray.compat.install("2.9.3")
import ray
assert ray.__version__ == "2.9.3" and zray.compat.is_installed()
zray.compat.install("2.60.0")
assert ray.__version__ == "2.60.0"
print(subprocess.run([sys.executable, "-c", {ASK!r}], capture_output=True, text=True).stdout, end="")
zray.compat.uninstall()
assert zray.__version__ == own and not zray.compat.is_installed() and "ray" not in sys.modules
try:
    import ray.util
except ModuleNotFoundError as error:
    print(error)
try:
    zray.compat.install("new")
except ValueError as error:
    print(error)
sys.modules["ray"] = type(sys)("ray")
try:
    zray.compat.install()
except RuntimeError as error:
    print(error)
""")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["2.60.0 zray", "No module named 'ray'"]
    assert "must be like 2.60.0, not 'new'" in lines[2] and "another ray is imported already" in lines[3]


def test_every_way_to_name_a_program(tmp_path):
    source = "import sys, ray; print(ray.__name__, sys.argv[1:])"
    lay_out(tmp_path, {"package/__init__.py": "", "package/job.py": source,
                       "bin/tool": f"#!{sys.executable}\n{source}"})
    (tmp_path / "bin" / "tool").chmod(0o755)
    run = "import sys; from zray.cli import main; sys.exit(main())"
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    for way in (("package/job.py",), ("tool",), ("bin/tool",), ("-c", "import package.job")):
        assert python("-m", "zray", *way, "--flag", "-x", cwd=tmp_path, PATH=path) == "zray ['--flag', '-x']\n"
    said = python("-c", run, "run", "-m", "package.job", "--flag", "-x", cwd=tmp_path)
    assert said == "zray ['--flag', '-x']\n"
    assert python("-X", "dev", "-W", "ignore", "-m", "zray", "-c", "import sys; print(sys.flags.dev_mode)") == "True\n"
    assert python("-c", run, "run", "--ray-version", "2.7", "-c", "import ray; print(ray.__version__)") == "2.7\n"


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "nothing to run: give SCRIPT"),
    (("no_such_script.py",), "there is no file and no program 'no_such_script.py'"),
    (("-m",), "-m takes an argument"), (("--nodes", "x.py"), "'--nodes' is no option of a program")])
def test_a_program_that_cannot_be_run(arguments, words):
    assert words in python("-m", "zray", *arguments, code=1)


def test_a_python_that_ignores_its_environment_is_refused():
    from tests.e2e.scripts import ROOT

    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['zray', 'x.py']; "
            "import zray.__main__ as m; m.main()")
    assert "python -E and -I ignore PYTHONPATH" in python("-E", "-c", code, code=1)
    assert "must be like" in python("-m", "zray", "-c", "0", code=1, ZRAY_RAY_VERSION="latest")


def test_a_sitecustomize_that_is_hidden_runs_too(tmp_path):
    lay_out(tmp_path, {"sitecustomize.py": "print('the other one')"})
    said = python("-m", "zray", "-c", "import ray; print(ray.__name__)",
                  PYTHONPATH=os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)]))
    assert said == "the other one\nthe other one\nzray\n"  # of this Python, and of the one that it becomes


def test_tests_of_a_program_run_under_pytest(tmp_path):
    lay_out(tmp_path, {"conftest.py": "import ray\nimport ray.util\n", "test_program.py": """
import ray
import zray
from ray.util.queue import Queue

def test_it():
    assert ray is zray and Queue is zray.util.queue.Queue
""", "pytest.ini": "[pytest]\n"})
    said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "zray.compat", "--rootdir", str(tmp_path),
                  cwd=tmp_path)
    assert "1 passed" in said


def test_the_command_ray_starts_and_ends_a_cluster(fresh, tmp_path):
    done = run_script(tmp_path, """
import subprocess
import ray

def command(*words):
    done = subprocess.run(["ray", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

command("start", "--head", "--num-cpus=1", "--port", "0", "--dashboard-host=0.0.0.0", "--include-dashboard", "false")
try:
    ray.init()
    assert ray.cluster_resources()["CPU"] == 1
    listens = ray.nodes()[0]["ListenAddress"]
    address = ray.util.get_node_ip_address() + ":" + listens.rpartition(":")[2]
    command("start", f"--address={address}", "--num-cpus=2", "--disable-usage-stats")
    while ray.cluster_resources()["CPU"] < 3:
        pass
    assert "2 nodes:" in command("status") and "CPU" in command("status", "-v")
    ray.shutdown()
    ray.init(address)
    ray.shutdown()
finally:
    print(command("stop", "--force", "--grace-period", "5"))
""", python=COMPAT)
    assert done.stdout.count("stopped") == 2
