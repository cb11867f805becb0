"""Runtime environments with code: folders, modules, wheels, hooks and interpreters reach the workers of every node."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.target import Counts, exceptions, ray, until, waits_because

OURS = f"{os.sep}zray{os.sep}worker{os.sep}"  # in the name of a file of the workers
SHORT = 60  # seconds: generous, builds run beside other tests


def wheel(folder, name, version, files):
    """A wheel made by hand: no index and no build tool are needed."""
    info = f"{name}-{version}.dist-info"
    path = Path(folder) / f"{name}-{version}-py3-none-any.whl"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in files.items():
            archive.writestr(entry, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{entry},,\n" for entry in (*files, f"{info}/RECORD")))
    return str(path)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A folder with code and data, a package, a module and a wheel."""
    root = tmp_path_factory.mktemp("code")
    folder = root / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "x.txt").write_text("data of the folder")
    (folder / "env_code.py").write_text("V = 'folder'\n")
    (folder / "big.bin").write_text("not sent")
    (folder / "ignored.log").write_text("not sent")
    (folder / ".gitignore").write_text("*.log\n")
    (root / "env_package").mkdir()
    (root / "env_package" / "__init__.py").write_text("from env_package.inner import V\n")
    (root / "env_package" / "inner.py").write_text("V = 'package'\n")
    (root / "env_single.py").write_text("V = 'single'\n")
    wheel(root, "env_wheel", "1.0", {"env_wheel/__init__.py": "V = 'wheel'\n"})
    with zipfile.ZipFile(root / "work.zip", "w") as archive:
        archive.writestr("env_code.py", "V = 'zip'\n")
    return root


@ray.remote
def look():
    import importlib

    found = {}
    for name in ("env_code", "env_package", "env_single", "env_wheel"):
        try:
            found[name] = importlib.import_module(name).V
        except ImportError:
            continue
    return found, sorted(set(os.listdir(".")) - {"__pycache__"}), os.environ.get("PLACE")


def inside(env):
    return ray.get(look.options(runtime_env=env).remote(), timeout=SHORT)


# ------------------------------------------------------------ a job with all of it


@pytest.fixture(scope="module")
def job(code, module_footprint):
    def hook():
        os.environ["HOOKED"] = os.environ["PLACE"]

    ray.shutdown()
    ray.init(num_cpus=2, runtime_env={
        "working_dir": code / "work", "excludes": ["*.bin"], "worker_process_setup_hook": hook,
        "py_modules": [code / "env_package", str(code / "env_single.py"), str(code / "env_wheel-1.0-py3-none-any.whl")],
        "env_vars": {"PLACE": "job"}})
    yield ray
    ray.shutdown()


def test_workers_run_in_a_copy_of_the_folder_and_import_its_code_and_the_modules(job, code):
    found, names, _ = ray.get(look.remote(), timeout=SHORT)
    assert found == {"env_code": "folder", "env_package": "package", "env_single": "single", "env_wheel": "wheel"}
    assert names == [".gitignore", "data", "env_code.py"], "without what is excluded or ignored"

    @ray.remote
    class Reader:
        def read(self):
            with open("data/x.txt") as file:
                return file.read(), os.getcwd()

    text, folder = ray.get(Reader.remote().read.remote(), timeout=SHORT)
    assert text == "data of the folder" and folder != str(code / "work")


def test_a_function_may_capture_a_module_that_the_driver_has_imported_from_the_folder(job, code, monkeypatch):
    monkeypatch.syspath_prepend(str(code / "work"))
    import env_code

    try:
        assert ray.get(ray.remote(lambda: (env_code.V, env_code.__file__)).remote(), timeout=SHORT)[0] == "folder"
    finally:
        del sys.modules["env_code"]


def test_the_hook_runs_once_in_every_worker_before_user_code_with_its_variables(job):
    @ray.remote
    def hooked():
        return os.environ["HOOKED"], ray.get_runtime_context().runtime_env["env_vars"]["PLACE"]

    assert ray.get(hooked.remote(), timeout=SHORT) == ("job", "job")
    child = {"env_vars": {"PLACE": "task"}}
    assert ray.get(hooked.options(runtime_env=child).remote(), timeout=SHORT)[0] == "task"


@pytest.mark.zray_only  # a task's own folder
def test_children_inherit_fields_and_their_own_replace_them(job, code):
    @ray.remote
    def parent():
        return ray.get([look.remote(), look.options(runtime_env={"py_modules": []}).remote()])

    for env, want in (({"working_dir": str(code / "work.zip")}, ("zip", ["env_code.py"], "job")),
                      ({"env_vars": {"PLACE": "parent"}}, ("folder", [".gitignore", "data", "env_code.py"], "parent"))):
        for found, names, place in ray.get(parent.options(runtime_env=env).remote(), timeout=SHORT):
            assert (found["env_code"], names, place) == want and found["env_single"] == "single"


def test_processes_that_user_code_starts_find_the_modules_too(job):
    def child():
        import subprocess

        return subprocess.run([sys.executable, "-c", "import env_code, env_single; print(env_code.V + env_single.V)"],
                              capture_output=True, text=True, check=True).stdout.strip()

    assert ray.get(ray.remote(child).remote(), timeout=SHORT) == "foldersingle"


# ------------------------------------------------------------ environments of tasks and actors


@pytest.fixture(scope="module")
def session(module_footprint):
    """A session whose job has no environment; the tests that need the other one are before."""
    ray.shutdown()
    ray.init(num_cpus=4)
    return ray


@pytest.mark.zray_only
def test_a_task_or_actor_has_a_folder_of_its_own_also_when_it_is_sent_on(session, code):
    assert inside({"working_dir": str(code / "work.zip")})[:2] == ({"env_code": "zip"}, ["env_code.py"])
    own = look.options(runtime_env={"working_dir": str(code / "work"), "excludes": ["*.bin", "data"]})

    @ray.remote
    def passes_on():
        return ray.get(own.remote())

    assert ray.get(passes_on.remote(), timeout=SHORT)[:2] == (
        {"env_code": "folder"}, [".gitignore", "env_code.py"])


@pytest.mark.zray_only
def test_addresses_of_files_are_read_by_the_node(session, code):
    address = (code / "work.zip").as_uri()
    assert inside({"working_dir": address, "py_modules": [(code / "env_wheel-1.0-py3-none-any.whl").as_uri()]})[0] == {
        "env_code": "zip", "env_wheel": "wheel"}
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"gone\.zip could not be read: "):
        inside({"working_dir": address.replace("work.zip", "gone.zip")})


@pytest.mark.zray_only
def test_a_scheme_without_a_client_names_the_extra(session):
    try:
        import fsspec  # noqa: F401
    except ImportError:
        with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"install zray\[fsspec\]"):
            inside({"working_dir": "s3://bucket/code.zip"})


@pytest.mark.zray_only  # Ray needs an index for it
def test_packages_of_pip_come_before_those_of_the_node_and_are_built_once(session, code):
    env = {"pip": [str(code / "env_wheel-1.0-py3-none-any.whl")]}

    @ray.remote(runtime_env=env)
    def installed():
        import subprocess

        import env_wheel
        import numpy

        outside = subprocess.run([sys.executable, "-c", "import env_wheel, numpy; print(env_wheel.V)"],
                                 capture_output=True, text=True, check=True).stdout.strip()
        return env_wheel.V, outside, env_wheel.__file__, len(numpy.__version__) > 0

    first = ray.get(installed.remote(), timeout=SHORT)
    assert first[:2] == ("wheel", "wheel")
    again = ray.get(installed.options(runtime_env={**env, "env_vars": {"PLACE": "other"}}).remote(), timeout=SHORT)
    assert again[2] == first[2], "another worker, the same environment"
    with pytest.raises(ModuleNotFoundError):
        ray.get(ray.remote(lambda: __import__("env_wheel")).remote())


@pytest.fixture
def uv():
    """uv as the node finds it."""
    found = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
    if found is None:
        pytest.skip(f"uv is not installed for {sys.executable}: pip install uv")
    return found


@pytest.mark.zray_only  # Ray needs an index for it
@pytest.mark.parametrize("form", ["a list", "a dict", "an index", "a file", "in the folder"])
def test_packages_of_uv_are_installed_with_their_programs(session, uv, tmp_path, form):
    path = wheel(tmp_path, "env_uv", "1.0", {
        "env_uv.py": "V = 'uv'\n", "env_uv-1.0.data/scripts/env-uv": "#!python\nimport env_uv; print('ran')\n"})
    (tmp_path / "requirements.txt").write_text(f"# a comment\n{path}\n")
    offline = ["--offline", "--no-index"]
    env = {"a list": {"uv": [path]},
           "a dict": {"uv": {"packages": [path], "uv_check": True, "uv_pip_install_options": offline}},
           "an index": {"uv": {"packages": ["env_uv==1.0"],
                               "uv_pip_install_options": [*offline, "--find-links", str(tmp_path)]}},
           "a file": {"uv": str(tmp_path / "requirements.txt")},
           "in the folder": {"uv": ["${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/" + os.path.basename(path)],
                             "working_dir": str(tmp_path)}}[form]

    @ray.remote(runtime_env=env)
    def installed():
        import subprocess

        import env_uv
        import numpy

        said = subprocess.run(["env-uv"], capture_output=True, text=True, check=True).stdout.strip()
        return env_uv.V, said, env_uv.__file__.startswith(sys.prefix), numpy.__file__.startswith(sys.prefix)

    assert ray.get(installed.remote(), timeout=SHORT) == ("uv", "ran", True, False)
    with pytest.raises(ModuleNotFoundError):
        ray.get(ray.remote(lambda: __import__("env_uv")).remote())


@pytest.mark.zray_only
@pytest.mark.parametrize(("fields", "words"), [
    ({"packages": ["/no/such/place/x-1.0-py3-none-any.whl"]}, ["failed with exit code", "/no/such/place/x-1.0"]),
    ({"packages": ["no-such-package"], "uv_pip_install_options": ["--offline", "--no-index"]}, ["no-such-package"]),
    ({"packages": ["no-such-package"], "uv_pip_install_options": ["--no-such-option"]}, ["--no-such-option"]),
], ids=["no file", "no package", "no option"])
def test_what_uv_cannot_install_is_an_error_with_its_output(session, uv, fields, words):
    with pytest.raises(exceptions.RuntimeEnvSetupError) as caught:
        inside({"uv": fields})
    for each in (f"the command {uv} pip install", "The whole output is in", *words):
        assert each in str(caught.value)
    assert OURS not in str(caught.value)


@pytest.mark.zray_only
def test_another_version_of_a_library_that_workers_have_loaded_gets_a_process_of_its_own(session, tmp_path):
    import sortedcontainers

    source = Path(sortedcontainers.__file__).parent
    files = {f"sortedcontainers/{path.name}": path.read_text() for path in source.glob("*.py")}
    files["sortedcontainers/__init__.py"] += "\n__version__ = '99.0'\n"
    path = wheel(tmp_path, "sortedcontainers", "99.0", files)

    @ray.remote
    def version():
        import sortedcontainers

        return sortedcontainers.__version__, sys.prefix != sys.base_prefix

    assert ray.get(version.options(runtime_env={"pip": [path]}).remote(), timeout=SHORT) == ("99.0", True)
    assert ray.get(version.remote())[0] != "99.0"


@pytest.mark.zray_only
def test_a_build_that_fails_is_an_error_of_its_tasks_and_actors_with_the_log_and_when_it_is_tried_again(session):
    env = {"pip": ["/no/such/place/x-1.0-py3-none-any.whl"]}
    with pytest.raises(exceptions.RuntimeEnvSetupError) as caught:
        inside(env)
    for words in ("could not be set up", "failed with exit code 1", "No such file or directory",
                  "The whole output is in", "after a pause of 10 s"):
        assert words in str(caught.value)
    assert OURS not in str(caught.value), "no frames of a worker"

    @ray.remote(runtime_env=env)
    class Never:
        def call(self):
            return 1

    with pytest.raises(exceptions.RayActorError, match="No such file or directory") as caught:
        ray.get(Never.remote().call.remote(), timeout=SHORT)
    assert OURS not in str(caught.value)
    assert ray.get(look.remote(), timeout=SHORT)[0] == {}, "others go on"


@pytest.mark.zray_only
def test_a_set_up_that_takes_too_long_ends_and_a_wait_for_one_says_so(session, tmp_path):
    os.mkfifo(tmp_path / "never.zip")  # opening it blocks until somebody writes
    env = {"working_dir": (tmp_path / "never.zip").as_uri(), "config": {"setup_timeout_seconds": 2}}
    ref = look.options(runtime_env=env).remote()
    waits_because(ref, "the runtime environment of its task is being set up", "working_dir")
    actor = ray.remote(Counts).options(runtime_env={**env, "config": {}}).remote()
    called = actor.add.remote()
    waits_because(called, "its actor is not created yet", "its runtime environment is being set up: working_dir")
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="longer than its setup_timeout_seconds, 2 s"):
        ray.get(ref, timeout=SHORT)
    with pytest.raises(exceptions.RayActorError, match="setup_timeout_seconds"):
        ray.get(called, timeout=SHORT)


@pytest.mark.zray_only
def test_a_python_of_the_users_runs_the_workers_and_one_that_does_not_exist_is_an_error(session):
    @ray.remote
    def options():
        return sys.flags.dev_mode, sys._xoptions

    command = f"{sys.executable} -X dev -X of_a_test"
    dev, found = ray.get(options.options(runtime_env={"py_executable": command}).remote(), timeout=SHORT)
    assert dev and "of_a_test" in found
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="'no-such-python' cannot be started on this node"):
        ray.get(options.options(runtime_env={"py_executable": "no-such-python"}).remote(), timeout=SHORT)


# ------------------------------------------------------------ hooks that fail


def fails():
    raise RuntimeError("by the hook")


def leaves():
    sys.exit("by the hook")


@pytest.mark.zray_only  # a task's own hook
@pytest.mark.parametrize(("hook", "words"), [(fails, "by the hook"), (leaves, "SystemExit: by the hook"),
                                             ("no_such_module.hook", "no_such_module")],
                         ids=["raises", "exits", "no module"])
def test_a_hook_that_fails_fails_the_actors_and_tasks_of_its_environment(session, hook, words):
    env = {"worker_process_setup_hook": hook}

    @ray.remote(runtime_env=env)
    class Never:
        def call(self):
            return 1

    with pytest.raises(exceptions.RayActorError) as caught:
        ray.get(Never.remote().call.remote(), timeout=SHORT)
    assert "Failed to execute the setup hook method" in str(caught.value) and words in str(caught.value)
    assert OURS not in str(caught.value)
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=words) as caught:
        inside(env)
    assert OURS not in str(caught.value)


@pytest.mark.zray_only  # a task's own hook
@pytest.mark.parametrize("variables", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["forked", "fresh"])
@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL)],
                         ids=["exit", "kill"])
def test_a_hook_that_ends_its_process_fails_the_tasks_and_actors_of_its_environment(session, end, variables):
    env = {"worker_process_setup_hook": end, "env_vars": variables}
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="ended while it ran the setup hook"):
        inside(env)

    @ray.remote(runtime_env=env)
    class Never:
        def call(self):
            return 1

    with pytest.raises(exceptions.RayActorError, match="ended while it ran the setup hook"):
        ray.get(Never.remote().call.remote(), timeout=SHORT)
    assert inside({"env_vars": {"OTHER": "1"}}), "other environments are not blamed"


def test_a_hook_that_cannot_be_pickled_is_refused_by_init_and_nothing_is_left(fresh):
    lock = __import__("threading").Lock()
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="Failed to export the setup function"):
        ray.init(num_cpus=1, runtime_env={"worker_process_setup_hook": lambda: lock})
    assert not ray.is_initialized()


@pytest.mark.zray_only
def test_too_large_a_folder_is_refused_by_init(fresh, tmp_path):
    (tmp_path / "big.bin").write_bytes(os.urandom(100_000))
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"package_bytes_max allows 50,000.*big\.bin"):
        ray.init(num_cpus=1, runtime_env={"working_dir": str(tmp_path)}, _system_config={"package_bytes_max": 50_000})
    assert not ray.is_initialized()


# ------------------------------------------------------------ several nodes


@pytest.mark.zray_only
def test_code_reaches_another_node_in_pieces_and_is_gone_with_its_session(grow, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "env_far.py").write_text("V = 'far'\n")
    (folder / "blob.bin").write_bytes(os.urandom(5_000_000))  # more than one piece
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1, "resources": {"far": 1}})

    @ray.remote(runtime_env={"working_dir": str(folder)})
    def there():
        import env_far

        return env_far.V, os.path.getsize("blob.bin"), os.getcwd(), ray.get_runtime_context().get_node_id()

    near = ray.get(there.remote(), timeout=SHORT)
    far = ray.get(there.options(resources={"far": 1}).remote(), timeout=SHORT)
    assert near[:2] == far[:2] == ("far", 5_000_000)
    for (_, _, place, node), daemon in zip((near, far), cluster.list_all_nodes(), strict=True):
        assert node == daemon.node_id and place.startswith(daemon.session_dir), "each node unpacks its own"
    ray.shutdown()
    cluster.shutdown()
    until(lambda: not os.path.exists(near[2]) and not os.path.exists(far[2]), "both are gone")
