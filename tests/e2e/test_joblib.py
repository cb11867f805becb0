"""util.joblib: Parallel, and scikit-learn's searches, on tasks."""

from __future__ import annotations

import importlib
import os

import numpy as np
import pytest

from tests.e2e.target import TARGET, ray

joblib = pytest.importorskip("joblib")
from joblib import Parallel, delayed  # noqa: E402

backends = importlib.import_module(f"{TARGET}.util.joblib")


@pytest.fixture
def backend(cluster):
    backends.register_ray()
    with joblib.parallel_backend("ray", n_jobs=3):
        yield


def _where(n):
    return n, os.getpid()


def _facts(array, n):
    return float(array[n]), array.flags.writeable, id(array)


def _fail(n):
    if n == 3:
        raise KeyError("third")
    return n


def _nested(n):
    assert {pid for _, pid in Parallel(n_jobs=2)(delayed(_where)(k) for k in range(3))} == {os.getpid()}
    return sum(Parallel(n_jobs=2)(delayed(pow)(n, k) for k in range(3)))


def test_calls_run_in_other_processes_and_in_order(backend):
    found = Parallel()(delayed(_where)(n) for n in range(40))
    assert [n for n, _ in found] == list(range(40)) and os.getpid() not in {pid for _, pid in found}


def test_errors_are_those_of_the_function(backend):
    with pytest.raises(KeyError, match="third"):
        Parallel()(delayed(_fail)(n) for n in range(20))
    assert Parallel()(delayed(_fail)(n) for n in range(3)) == [0, 1, 2]


@pytest.mark.zray_only
def test_a_large_array_is_stored_once_and_read_in_place(backend):
    array = np.arange(500_000.0)
    before = ray.available_resources().get("object_store_memory", 0)
    found = Parallel(batch_size=1)(delayed(_facts)(array, n) for n in range(12))
    assert [value for value, _, _ in found] == list(range(12)) and not any(writable for _, writable, _ in found)
    assert before - ray.available_resources().get("object_store_memory", 0) < 3 * array.nbytes
    plain = Parallel(max_nbytes=None)(delayed(_facts)(array, n) for n in range(2))
    assert [value for value, _, _ in plain] == [0, 1]


def test_parallel_calls_inside_parallel_calls(backend):
    assert Parallel()(delayed(_nested)(n) for n in range(6)) == [1 + n + n * n for n in range(6)]


@pytest.mark.zray_only
def test_results_as_a_generator_and_the_number_of_jobs(backend):
    assert list(Parallel(return_as="generator")(delayed(abs)(-n) for n in range(9))) == list(range(9))
    assert sorted(Parallel(return_as="generator_unordered")(delayed(abs)(-n) for n in range(9))) == list(range(9))
    assert joblib.effective_n_jobs(-1) == 4 and joblib.effective_n_jobs(2) == 2
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0)(delayed(abs)(n) for n in range(2))
    with joblib.parallel_config(backend="zray", n_jobs=2, ray_remote_args={"num_cpus": 2}):
        assert Parallel()(delayed(_cpus)() for _ in range(2)) == [{"CPU": 2.0}] * 2


@pytest.mark.zray_only
def test_without_n_jobs_all_cpus_work_but_not_inside_of_batches(cluster):
    backends.register_ray()
    with joblib.parallel_config(backend="zray"):
        assert Parallel().n_jobs == -1 and joblib.effective_n_jobs(-1) == 4
        assert Parallel()(delayed(_jobs)() for _ in range(2)) == [(1, 2)] * 2


def _jobs():
    return Parallel().n_jobs, joblib.effective_n_jobs(2)


def _cpus():
    return ray.get_runtime_context().get_assigned_resources()


def test_scikit_learn_searches_and_validates(backend):
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    X, y = make_classification(100, 6, random_state=0)
    tree, forest = DecisionTreeClassifier(random_state=0), RandomForestClassifier(3, random_state=0, n_jobs=2)
    search = GridSearchCV(tree, {"max_depth": [1, 2]}, cv=2, n_jobs=2).fit(X, y)
    scores = cross_val_score(forest, X, y, cv=2, n_jobs=2)
    with joblib.parallel_config(backend="sequential"):
        alone = GridSearchCV(tree, {"max_depth": [1, 2]}, cv=2).fit(X, y)
        expected = cross_val_score(forest, X, y, cv=2)
    assert search.best_params_ == alone.best_params_ and search.best_score_ == alone.best_score_
    assert np.array_equal(scores, expected)


@pytest.mark.zray_only
def test_a_full_machine_runs_parallel_calls_inside_tasks(cluster):
    @ray.remote(num_cpus=4)
    def task():
        backends.register_zray()
        with joblib.parallel_backend("zray", n_jobs=2, ray_remote_args={"num_cpus": 4}):
            return Parallel()(delayed(abs)(-n) for n in range(4))

    assert ray.get(task.remote(), timeout=60) == [0, 1, 2, 3]
