"""Variables of runtime environments: which are refused, how they merge and expand, which of them need an exec."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from tests.fakes.room import roomy
from zray.base import env_vars
from zray.node.processes.pool import BROKEN_RETRY_S, START_FAILURES_FREE, Kind, State, WorkerPool
from zray.worker import process

NAMES = st.sampled_from(["A", "B", "PATH", "LD_PRELOAD", "PYTHONPATH"])
PLAIN = st.dictionaries(NAMES, st.text(st.characters(exclude_characters="$\0", exclude_categories=["Cs"])))


@given(PLAIN, PLAIN)
def test_text_without_references_is_taken_as_it_is_and_the_child_wins_key_by_key(inherited, own):
    merged = env_vars.merged(inherited, own)
    assert env_vars.expand(merged, {"A": "node"}) == {**inherited, **own}
    env_vars.check(merged)


@pytest.mark.parametrize(("text", "want"), [
    ("${HOME}/x", "/root/x"), ("$HOME/x", "/root/x"), ("a$HOME", "a/root"), ("${NONE}:x", ":x"), ("$NONE:x", "$NONE:x"),
    ("$", "$"), ("5$ and ${", "5$ and ${"), ("${HOME}${HOME}", "/root/root"), ("$BEFORE", "x"), ("$SELF!", "node!"),
    ("$ÄB", "$ÄB"),
])
def test_references_expand_as_in_ray(text, want):
    env = {"BEFORE": "x", "SELF": text}
    assert env_vars.expand(env, {"HOME": "/root", "SELF": "node"})["SELF"] == want


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LC_ALL",
                                  "LANG", "PYTHONHASHSEED", "PYTHONUTF8", "OPENBLAS_CORETYPE",
                                  "NPY_DISABLE_CPU_FEATURES"])
def test_variables_that_count_once_need_an_exec_unless_the_node_has_them_so(name):
    assert env_vars.needs_exec({"A": "1", name: "x"}, {name: "y"})
    assert not env_vars.needs_exec({"A": "1", name: "x"}, {name: "x"}), "as when all of os.environ is passed on"
    assert Kind.of(1, {name: "x"}, environ={}).fresh


@pytest.mark.parametrize("name", ["A", "TZ", "PATH", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_HOME",
                                  "OPENBLAS_NUM_THREADS", "HOME", "NCCL_DEBUG"])
def test_variables_that_are_read_when_they_are_used_need_none(name):
    assert not env_vars.needs_exec({name: "x"}, {})


def test_each_variable_that_cpython_reads_at_its_start_needs_an_exec():
    text = subprocess.run([sys.executable, "--help-env"], capture_output=True, text=True, check=True).stdout
    names = {word for line in text.splitlines() if line.startswith("PYTHON") for word in [line.split()[0].strip(":")]}
    assert len(names) > 15
    assert {name for name in names if not env_vars.needs_exec({name: "x"}, {})} <= {"PYTHONPATH"}


def test_the_order_of_variables_matters_only_where_one_may_refer_to_another():
    assert Kind.of(1, {"A": "1", "B": "2"}) == Kind.of(1, {"B": "2", "A": "1"})
    assert Kind.of(1, {"A": "1", "B": "$A"}) != Kind.of(1, {"B": "$A", "A": "1"})


def test_a_process_that_is_executed_has_the_nodes_the_drivers_and_its_own_variables():
    node = {"PATH": "/bin", "OMP_NUM_THREADS": "8", "KEEP": "k"}
    assert env_vars.at_start({"PATH": "$PATH:/x"}, 3, {}, node) == {**node, "PATH": "/bin:/x"}
    assert env_vars.at_start({}, 3, {"OMP_NUM_THREADS": "2"}, node)["OMP_NUM_THREADS"] == "2"
    assert env_vars.at_start({"OMP_NUM_THREADS": "1"}, 3, {"OMP_NUM_THREADS": "2"}, node)["OMP_NUM_THREADS"] == "1"
    assert env_vars.at_start({}, 3, {}, {}) == {"OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize(("environ", "want"), [
    ({}, None), ({"OMP_NUM_THREADS": "4"}, 4), ({"OMP_NUM_THREADS": "4,2"}, 4), ({"OMP_NUM_THREADS": "many"}, None),
    ({"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "2"}, 2), ({"OMP_NUM_THREADS": "0"}, None),
])
def test_a_blas_takes_its_threads_from_its_own_variable_before_that_of_openmp(environ, want):
    assert env_vars.blas_threads(environ) == want


@pytest.mark.parametrize(("cpus", "want"), [(None, 1), (0.5, 1), (1, 1), (2.0, 2), (3.9, 3)])
def test_threads_are_the_whole_cpus_of_a_lease_and_at_least_one(cpus, want):
    assert env_vars.threads_for({} if cpus is None else {"CPU": cpus}) == want


@pytest.mark.parametrize(("script_dir", "text", "want"), [
    ("/job", "/x:/y", ["/job", "/x", "/y", "/a", "/b"]),
    ("", "/x", ["/x", "/job", "/a", "/b"]),
    ("/job", "/b:/job:/b", ["/job", "/b", "/a"]),
    ("/job", "::", ["/job", "/a", "/b"]),
])
def test_pythonpath_stands_where_python_puts_it(monkeypatch, script_dir, text, want):
    monkeypatch.setattr(sys, "path", ["/job", "/a", "/b"])
    process._put_on_path(text, {"script_dir": script_dir})
    assert sys.path == want


@pytest.mark.parametrize(("env", "gpus", "want"), [
    ({}, [1], "1"), ({}, [], "9"), ({"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}, [1], "9"),
    ({"ZRAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "true"}, [1], "9"),
    ({"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "0"}, [1], "1"),
    ({"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}, [], ""), ({"CUDA_VISIBLE_DEVICES": "5"}, [1], "5"),
])
def test_cuda_visible_devices_is_the_users_where_the_user_says_so(monkeypatch, env, gpus, want):
    for name in list(os.environ):
        if "CUDA" in name or "OVERRIDE" in name:
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {**os.environ, "CUDA_VISIBLE_DEVICES": "9", "OMP_NUM_THREADS": "1"})
    process.take_on_environment(env, {"gpu_ids": gpus}, {}, started_under=False, node_has_gpus=True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == want


# ------------------------------------------------------------ the pool


def pool():
    out = []
    numbers = iter(range(1, 1000))
    return WorkerPool(lambda: next(numbers).to_bytes(28, "little"), out.append, keep=0, workers_max=8,
                      idle_s=10.0, room=roomy(), may_retire=lambda worker: True, is_over=lambda job: False), out


def test_an_environment_that_no_process_starts_under_gets_a_worker_that_says_so():
    machine, out = pool()
    kind, other = Kind.of(1, {"LD_PRELOAD": "x"}), Kind.of(1, {"LD_PRELOAD": "y"})
    assert machine.take(kind, "token", 0.0) is None
    for _ in range(START_FAILURES_FREE):
        assert out[-1].kind == kind and not out[-1].broken
        machine.workers[out[-1].worker[:8]].pid = 1
        machine.died(out[-1].worker[:8], 0.0, "no such library")
    assert out[-1].kind == kind and "no such library" in out[-1].broken
    assert [token for token, _ in machine.ready(out[-1].worker[:8], "ipc://x", 0.0)] == ["token"]
    assert machine.take(other, "other", 0.0) is None
    assert out[-1].kind == other and not out[-1].broken, "other environments are not blamed"
    machine.check()


def test_an_environment_that_no_process_starts_under_is_tried_again_after_a_pause():
    machine, out = pool()
    kind = Kind.of(1, {"LD_PRELOAD": "x"})

    def serve(now):
        """Start until a worker serves: a fork that only raises the error, or one that has started at last."""
        [(_, worker)] = machine.ready(out[-1].worker[:8], "ipc://x", now)
        machine.use(worker, State.LEASED, 1, now)
        assert machine.release(worker, now) == []
        return worker

    machine.take(kind, "first", 0.0)
    for _ in range(START_FAILURES_FREE):
        machine.workers[out[-1].worker[:8]].pid = 1
        machine.died(out[-1].worker[:8], 0.0, "no such library")
    assert serve(0.0).state is State.EXITING, "a worker that only raises serves one lease"
    assert machine.take(kind, "soon", BROKEN_RETRY_S / 2) is None
    assert out[-1].broken, "not yet"
    serve(BROKEN_RETRY_S / 2)
    assert machine.take(kind, "later", BROKEN_RETRY_S) is None
    assert out[-1].kind == kind and not out[-1].broken
    assert serve(BROKEN_RETRY_S).state is State.IDLE
    machine.check()


def test_a_fork_that_fails_is_no_fault_of_the_environment():
    machine, out = pool()
    machine.take(Kind.of(1, {"LD_PRELOAD": "x"}), "token", 0.0)
    for _ in range(START_FAILURES_FREE + 3):
        machine.died(out[-1].worker[:8], 0.0, "cannot fork")
        machine.tick(machine.next_deadline() or 0.0)
    assert not any(spawn.broken for spawn in out)


@pytest.mark.parametrize("variables", [{}, {"LD_PRELOAD": "x"}], ids=["forked", "fresh"])
def test_a_hook_that_ends_its_process_again_and_again_breaks_its_environment_until_a_worker_survives_it(variables):
    machine, out = pool()
    kind = Kind.of(1, variables, hook="m.hook")

    def serve(now=0.0):
        worker = machine.take(kind, "token", now)
        if worker is None:
            [(_, worker)] = machine.ready(out[-1].worker[:8], "ipc://x", now)
        machine.use(worker, State.LEASED, 1, now)
        return worker

    def dies(now=0.0, **how):
        machine.died(serve(now).incarnation, now, **how)

    for _ in range(START_FAILURES_FREE):
        dies()  # in user code
        killed = serve()
        machine.kill(killed, "by the user", 0.0)
        machine.died(killed.incarnation, 0.0, equipping=True)
        assert not machine.why_broken(kind)
    for _ in range(START_FAILURES_FREE - 1):
        dies(equipping=True)
    machine.release(serve(), 0.0)
    for _ in range(START_FAILURES_FREE):
        assert not machine.why_broken(kind), "a worker has survived it in between"
        dies(equipping=True, last_words="a last word")
    why = machine.why_broken(kind)
    assert "setup hook method m.hook" in why and "a last word" in why
    assert not machine.why_broken(Kind.of(1, variables, hook="m.other"))
    serve(BROKEN_RETRY_S)
    assert not machine.why_broken(kind), "it is tried again"
    machine.check()


def test_workers_for_variables_of_a_start_are_not_mixed_with_forked_ones():
    machine, out = pool()
    plain, fresh = Kind.of(1, {}), Kind.of(1, {"LD_PRELOAD": "x"})
    machine.take(fresh, "fresh", 0.0)
    machine.take(plain, "plain", 0.0)
    assert [spawn.kind for spawn in out] == [fresh, None]
    assert [token for token, _ in machine.ready(out[1].worker[:8], "ipc://x", 0.0)] == ["plain"]
    assert [token for token, _ in machine.ready(out[0].worker[:8], "ipc://x", 0.0)] == ["fresh"]
    machine.check()
