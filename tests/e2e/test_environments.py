"""Environments follow the work: variables act as if the worker had been started under them, and are inherited."""

from __future__ import annotations

import glob
import os
import signal
import sys
import time

import numpy as np
import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import IS_ZRAY, exceptions, ray, until

FRESH = {"PYTHONUNBUFFERED": "1"}  # any variable that counts only at the start of a process
LIBRARY = next(iter(glob.glob("/lib/*/libBrokenLocale.so.1") + glob.glob("/usr/lib*/libBrokenLocale.so.1")), "")


def env(**variables):
    return {"runtime_env": {"env_vars": variables}}


def seen(*names):
    return tuple(os.environ.get(name) for name in names)


def about():
    return os.getpid(), os.getsid(0), os.getppid(), open("/proc/self/comm").read().strip()


def fails_to_start():
    """A Python that cannot find its standard library."""
    return env(PYTHONHOME="/nonexistent")


# ------------------------------------------------------------ at the start of the process


@pytest.mark.parametrize(("variables", "ask", "want"), [
    ({"PYTHONHASHSEED": "0"}, lambda: hash("abc"), -4594863902769663758),
    ({"PYTHONOPTIMIZE": "1"}, lambda: sys.flags.optimize, 1),
    ({"PYTHONUNBUFFERED": "1"}, lambda: sys.stdout.line_buffering, True),
    ({"PYTHONWARNINGS": "ignore", "PYTHONDEVMODE": "1"}, lambda: sys.flags.dev_mode, True),
    ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, sys.getfilesystemencoding, "ascii"),
    ({"LD_PRELOAD": LIBRARY}, lambda: "libBrokenLocale" in open("/proc/self/maps").read(), True),
    ({"TZ": "Asia/Tokyo"}, lambda: time.localtime(0).tm_hour, 9),
    ({"TMPDIR": "/dev/shm"}, lambda: __import__("tempfile").gettempdir(), "/dev/shm"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_a_variable_acts_as_if_the_worker_had_been_started_under_it(cluster, variables, ask, want):
    task = ray.remote(lambda: (ask(), seen(*variables)))
    assert ray.get(task.options(**env(**variables)).remote()) == (want, tuple(variables.values()))
    assert ray.get(ray.remote(lambda: seen(*variables)).remote()) == seen(*variables), "and nobody else has it"


def test_pythonpath_comes_behind_the_scripts_folder_and_before_everything_else(tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "only_here.py").write_text("V = 7\n")
    (tmp_path / "extra" / "both.py").write_text("V = 'extra'\n")
    (tmp_path / "extra" / "this.py").write_text("V = 'not the standard library'\n")
    (tmp_path / "both.py").write_text("V = 'script'\n")
    run_script(tmp_path, """
        import os
        import zray as ray
        ray.init(num_cpus=2, runtime_env={"env_vars": {"PYTHONPATH": os.path.abspath("extra")}})

        @ray.remote
        def load():
            import both, only_here, this
            return both.V, only_here.V, this.V, os.environ["PYTHONPATH"]

        want = ("script", 7, "not the standard library", os.path.abspath("extra"))
        assert ray.get(load.remote()) == want
        assert ray.get(load.options(runtime_env={"env_vars": {"PYTHONHASHSEED": "1"}}).remote()) == want
    """)


@pytest.mark.skipif(not IS_ZRAY, reason="zray's own processes")
def test_a_worker_started_afresh_is_one_process_of_its_node_like_all_others(cluster):
    task = ray.remote(about)
    pid, session, parent, name = ray.get(task.options(**env(**FRESH)).remote())
    forked, _, node, forked_name = ray.get(task.remote())
    assert session == pid != forked and parent == node and name == forked_name == "zray-worker"
    assert ray.get(task.options(**env(**FRESH)).remote())[0] == pid, "and serves its environment again"


def test_a_worker_started_afresh_prints_keeps_arrays_and_serves_actors(cluster, capfd):
    @ray.remote(**env(**FRESH))
    class Keeper:
        def __init__(self, array):
            self.array = array

        def add(self):
            print("a line of the keeper")
            return self.array + ray.get(ray.put(np.ones(200_000)))

    keeper = Keeper.remote(np.zeros(200_000))
    assert ray.get(keeper.add.remote()).sum() == 200_000
    out = ""

    def printed():
        nonlocal out
        out += capfd.readouterr().out
        return "a line of the keeper" in out

    until(printed, "the line arrives")


@pytest.mark.skipif(not IS_ZRAY, reason="zray's own processes")
def test_a_task_whose_fresh_worker_is_killed_runs_again_and_one_whose_node_dies_is_gone(cluster, tmp_path):
    mark = tmp_path / "ran"

    @ray.remote(max_retries=1, **env(**FRESH))
    def once():
        if not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), os.getppid()

    pid, _ = ray.get(once.remote())
    ray.shutdown()
    until(lambda: not os.path.exists(f"/proc/{pid}"), "it ends with its node")


def test_an_environment_under_which_python_cannot_start_is_an_error_of_its_tasks_alone(cluster):
    task = ray.remote(lambda: 1)
    broken = task.options(**fails_to_start()).remote()
    assert ray.get(task.remote()) == 1
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"could not start under its env_vars PYTHONHOME"):
        ray.get(broken, timeout=30)

    @ray.remote(**fails_to_start())
    class Never:
        def call(self):
            return 1

    with pytest.raises(exceptions.RayActorError, match="could not start under its env_vars PYTHONHOME"):
        ray.get(Never.remote().call.remote(), timeout=30)
    assert ray.get(task.options(**env(**FRESH)).remote()) == 1


@pytest.mark.parametrize("variables", [{"A": 1}, {1: "a"}, {"A=B": "1"}, {"": "1"}, {"A\0": "1"}, {"A": "\0"},
                                       {"A": "\ud800"}, ["A"], "A=1"], ids=str)
def test_variables_that_no_process_can_have_are_refused_where_they_are_written(fresh, variables):
    wrong = {"env_vars": variables}
    with pytest.raises((TypeError, ValueError), match="env_vars"):
        ray.remote(runtime_env=wrong)(seen)
    with pytest.raises((TypeError, ValueError), match="env_vars"):
        ray.init(runtime_env=wrong)
    assert not ray.is_initialized()


# ------------------------------------------------------------ inherited, merged, expanded


@pytest.mark.parametrize("fresh_too", [{}, FRESH], ids=["forked", "started afresh"])
def test_children_at_every_depth_inherit_what_they_do_not_say_themselves(fresh, fresh_too):
    ray.init(num_cpus=4, runtime_env={"env_vars": {"JOB": "j", "BOTH": "job", **fresh_too}})
    leaf = ray.remote(seen)
    names = ("JOB", "BOTH", "MINE", "MORE")

    class Leaf:
        def read(self):
            return seen(*names)

        def child(self):
            return ray.get(leaf.remote(*names))

    Actor = ray.remote(Leaf)

    @ray.remote
    def parent(depth):
        if depth:
            return ray.get(parent.remote(depth - 1))
        actor = Actor.options(**env(MORE="actor")).remote()
        return ray.get([leaf.remote(*names), leaf.options(**env(MORE="2", BOTH="leaf")).remote(*names),
                        actor.read.remote(), actor.child.remote(), *leaf.map(["BOTH"])])

    got = ray.get(parent.options(**env(MINE="1", BOTH="parent")).remote(2))
    assert got == [("j", "parent", "1", None), ("j", "leaf", "1", "2"), ("j", "parent", "1", "actor"),
                   ("j", "parent", "1", "actor"), ("parent",)]
    assert ray.get(leaf.remote(*names)) == ("j", "job", None, None)


def test_children_of_a_task_inherit_on_another_node_too(grow):
    grow({"num_cpus": 1}, {"num_cpus": 2, "resources": {"there": 1}})
    leaf = ray.remote(resources={"there": 0.1})(seen)

    @ray.remote
    def parent():
        return ray.get(leaf.remote("MINE", "PYTHONHASHSEED"))

    assert ray.get(parent.options(**env(MINE="1", PYTHONHASHSEED="3")).remote()) == ("1", "3")


def test_the_runtime_environment_of_whoever_starts_the_driver_stands_below_that_of_init(fresh, monkeypatch):
    monkeypatch.setenv("RAY_RUNTIME_ENV", '{"env_vars": {"OUTER": "o", "BOTH": "o"}}')
    ray.init(num_cpus=1, runtime_env={"env_vars": {"BOTH": "i"}})
    assert ray.get(ray.remote(seen).remote("OUTER", "BOTH")) == ("o", "i")
    ray.shutdown()
    monkeypatch.setenv("RAY_RUNTIME_ENV", "{")
    with pytest.raises(ValueError, match=r"variable RAY_RUNTIME_ENV is not JSON"):
        ray.init(num_cpus=1)
    monkeypatch.setenv("ZRAY_RUNTIME_ENV", '{"working_dir": "/no/such/folder"}')
    with pytest.raises(ValueError, match=r"variable ZRAY_RUNTIME_ENV has no valid runtime env.* nothing that exists"):
        ray.init(num_cpus=1)
    monkeypatch.setenv("ZRAY_RUNTIME_ENV", "[]")
    with pytest.raises(ValueError, match=r"variable ZRAY_RUNTIME_ENV has no valid runtime env"):
        ray.init(num_cpus=1)


def test_a_task_is_told_the_environment_that_it_inherited(fresh):
    ray.init(num_cpus=2, runtime_env={"env_vars": {"JOB": "j"}})

    @ray.remote
    def told():
        return ray.get_runtime_context().runtime_env["env_vars"]

    assert ray.get(told.options(**env(MINE="1")).remote()) == {"JOB": "j", "MINE": "1"}


@pytest.mark.parametrize("fresh_too", [{}, FRESH], ids=["forked", "started afresh"])
def test_references_to_variables_are_replaced_by_what_the_node_has(fresh, monkeypatch, fresh_too):
    monkeypatch.setenv("BASE", "/base")
    ray.init(num_cpus=2)
    variables = {"ONE": "${BASE}:/x", "TWO": "$ONE:/y", "NONE": "${NOT_THERE_}:/z", "MONEY": "5$",
                 "KEPT": "$NOT_THERE_", "BASE": "$BASE/more", **fresh_too}
    task = ray.remote(seen)
    want = ("/base:/x", "/base:/x:/y", ":/z", "5$", "$NOT_THERE_", "/base/more")
    for _ in range(2):  # a worker that is used again expands nothing twice
        assert ray.get(task.options(**env(**variables)).remote(*list(variables)[:6])) == want


# ------------------------------------------------------------ threads of numeric libraries


def blas_threads():
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return os.environ.get("OMP_NUM_THREADS"), {pool["num_threads"] for pool in threadpool_info()}


def test_numpy_uses_as_many_threads_as_a_task_has_cpus(fresh, monkeypatch):
    pytest.importorskip("threadpoolctl")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    ray.init(num_cpus=4)
    task = ray.remote(blas_threads)
    Actor = ray.remote(type("Actor", (), {"ask": lambda self: blas_threads()}))
    asked = {
        "default": task.remote(), "half": task.options(num_cpus=0.5).remote(),
        "three": task.options(num_cpus=3).remote(),
        "own": task.options(**env(OMP_NUM_THREADS="2")).remote(),
        "own, of OpenBLAS": task.options(num_cpus=2, **env(OPENBLAS_NUM_THREADS="3")).remote(),
        "afresh": task.options(num_cpus=2, **env(**FRESH)).remote(),
    }
    got = {name: ray.get(ref) for name, ref in asked.items()}
    got["actor"] = ray.get(Actor.remote().ask.remote())
    got["actor of two"] = ray.get(Actor.options(num_cpus=2).remote().ask.remote())
    assert got == {"default": ("1", {1}), "half": ("1", {1}), "three": ("3", {3}), "own": ("2", {2}),
                   "own, of OpenBLAS": ("2", {3}), "afresh": ("2", {2}), "actor": ("1", {1}),
                   "actor of two": ("2", {2})}


def test_what_the_driver_says_of_threads_holds_for_its_workers_also_on_a_node_that_runs_already(grow, monkeypatch):
    pytest.importorskip("threadpoolctl")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cluster = grow({"num_cpus": 2}, connect=None)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    ray.init(address=cluster.list_all_nodes()[0].session_dir)
    task = ray.remote(blas_threads)
    assert ray.get(task.remote()) == ("2", {2})
    assert ray.get(task.options(**env(**FRESH)).remote()) == ("2", {2})
    assert ray.get(task.options(**env(OMP_NUM_THREADS="1")).remote()) == ("1", {1})


# ------------------------------------------------------------ GPUs


def gpus():
    return [str(gpu) for gpu in ray.get_gpu_ids()], os.environ.get("CUDA_VISIBLE_DEVICES")


def test_the_user_may_keep_cuda_visible_devices_for_himself(fresh, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.init(num_cpus=4, num_gpus=2)
    task = ray.remote(num_gpus=1)(gpus)
    assert ray.get(task.remote()) == (["0"], "0")
    assert ray.get(task.options(num_gpus=0).remote()) == ([], None), "a task without GPUs keeps the variable as it is"
    for name in ("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "ZRAY_NOSET_CUDA_VISIBLE_DEVICES"):
        assert ray.get(task.options(**env(**{name: "1"})).remote())[1] is None
        assert ray.get(task.options(**env(**{name: "0"})).remote())[1] in ("0", "1")
    assert ray.get(task.options(**env(CUDA_VISIBLE_DEVICES="5")).remote())[1] == "5"
    hidden = env(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1")
    assert ray.get(task.options(num_gpus=0, **hidden).remote()) == ([], "")


def test_the_worker_of_a_task_with_gpus_ends_after_it_unless_max_calls_is_given(fresh):
    ray.init(num_cpus=4, num_gpus=2)
    once, kept = ray.remote(num_gpus=0.5)(os.getpid), ray.remote(num_gpus=0.5, max_calls=0)(os.getpid)
    assert len({ray.get(once.remote()) for _ in range(3)}) == 3
    assert len({ray.get(kept.remote()) for _ in range(3)}) == 1


@pytest.mark.parametrize("ids", ["2,3", "GPU-aaa,GPU-bbb", "7, 5 ,1,-1,9"])
def test_the_drivers_cuda_visible_devices_names_the_gpus_that_are_handed_out(fresh, monkeypatch, ids):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ids)
    ray.init(num_cpus=2, num_gpus=2)
    first, second = [name.strip() for name in ids.split(",")][:2]
    assert ray.get(ray.remote(num_gpus=2)(gpus).remote()) == ([first, second], f"{first},{second}")
    assert ray.get(ray.remote(num_gpus=0.5)(gpus).remote()) == ([first], first)
    assert ray.get(ray.remote(gpus).remote()) == ([], ids)


def test_more_gpus_than_cuda_visible_devices_names_are_refused(fresh, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises((RuntimeError, ValueError), match="CUDA_VISIBLE_DEVICES"):
        ray.init(num_cpus=1, num_gpus=2)


# ------------------------------------------------------------ what a node has


def test_work_is_pinned_by_the_resources_that_stand_for_nodes(grow):
    cluster = grow({"num_cpus": 1}, {"num_cpus": 1})
    head, other = (node.node_id for node in cluster.list_all_nodes())
    rows = {row["NodeID"]: row for row in ray.nodes()}
    assert all(row["Resources"][f"node:{row['NodeManagerAddress']}"] == 1 for row in rows.values())
    assert "node:__internal_head__" in rows[head]["Resources"]
    assert "node:__internal_head__" not in rows[other]["Resources"]
    assert ray.cluster_resources()["node:__internal_head__"] == 1

    @ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})
    def where():
        return ray.get_runtime_context().get_node_id()

    assert set(ray.get([where.remote() for _ in range(20)])) == {head}


def test_sizes_may_be_floats_wherever_a_node_is_started(grow):
    grow({"num_cpus": 1, "object_store_memory": 1e8 + 0.5, "memory": np.float64(3e8) / 7},
         {"num_cpus": 1, "object_store_memory": 0.1 * 1e9, "memory": 1e9})
    total = ray.cluster_resources()
    assert total["object_store_memory"] == 200_000_000 and total["memory"] == 42_857_142 + 1_000_000_000

    @ray.remote(memory=0.3 * 1e9 / 7)
    def fits():
        return ray.get_runtime_context().get_assigned_resources()["memory"]

    assert ray.get(fits.remote()) == 42_857_142


def test_init_takes_sizes_as_floats_and_refuses_what_is_no_size(fresh):
    for wrong, error in (("1e9", TypeError), (True, TypeError), (float("nan"), ValueError), (float("inf"), ValueError),
                         (-1.0, ValueError)):
        with pytest.raises(error, match="object_store_memory"):
            ray.init(object_store_memory=wrong)
    ray.init(num_cpus=1, object_store_memory=np.float64(0.1) * 1e9, _memory=2.5e8)
    total = ray.cluster_resources()
    assert (total["object_store_memory"], total["memory"]) == (100_000_000, 250_000_000)


def test_what_is_free_of_the_store_follows_puts_results_and_releases_on_every_node(grow):
    node = {"num_cpus": 1, "object_store_memory": 2e8}
    grow(node, {**node, "resources": {"b": 1}})

    def used():
        return 4e8 - ray.available_resources()["object_store_memory"]

    kept = ray.put(np.ones(5_000_000))
    until(lambda: 40e6 <= used() < 41e6, lambda: f"a put counts: {used()}")
    afar = ray.remote(resources={"b": 1})(lambda: np.ones(2_500_000)).remote()
    until(lambda: 60e6 <= used() < 61e6, lambda: f"a result of another node counts: {used()}")
    del kept, afar
    until(lambda: used() < 1e6, lambda: f"what is released is free again: {used()}")
