"""Wrong use: each mistake ends in an error that says what is wrong, and the session stays usable."""

from __future__ import annotations

import os
import resource
import threading

import numpy as np
import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import IS_ZRAY, exceptions, ray


@pytest.fixture(autouse=True)
def _usable_afterwards(request):
    if "fresh" in request.fixturenames or "session_root" in request.fixturenames and "tmp_path" in request.fixturenames:
        yield
        return
    request.getfixturevalue("cluster")
    yield
    assert ray.get(ray.remote(lambda: "usable").remote(), timeout=60) == "usable"


def test_an_argument_that_cannot_be_pickled_names_the_offending_path():
    @ray.remote
    def f(x):
        return x

    with pytest.raises(TypeError) as caught:
        f.remote({"config": [1, threading.Lock()]})
    assert "lock" in str(caught.value).lower()
    if IS_ZRAY:
        assert "config" in str(caught.value)


def test_a_function_that_captures_what_cannot_be_pickled_says_so():
    lock = threading.Lock()

    @ray.remote
    def f():
        return lock

    with pytest.raises(TypeError, match="lock"):
        f.remote()


def test_a_put_of_what_cannot_be_pickled_says_so():
    with pytest.raises(TypeError, match="lock|generator"):
        ray.put(threading.Lock())


def test_a_result_that_cannot_be_pickled_is_an_error_of_the_task():
    @ray.remote
    def f():
        return {"handle": threading.Lock()}

    with pytest.raises(exceptions.RayError) as caught:
        ray.get(f.remote())
    assert "lock" in str(caught.value)


@pytest.mark.parametrize("returned", [(), (1,), (1, 2, 3), 5, None])
def test_a_wrong_number_of_returned_values_is_an_error(returned):
    @ray.remote(num_returns=2, max_retries=0)
    def f():
        return returned

    with pytest.raises((ValueError, TypeError, exceptions.RayTaskError)):
        ray.get(f.remote())


def test_an_unknown_option_is_refused_with_its_name():
    with pytest.raises(ValueError, match="Invalid option keyword"):
        ray.remote(nonsense=1)(lambda: None)
    with pytest.raises(ValueError, match="Invalid option keyword"):
        ray.remote(lambda: None).options(nonsense=1)


@pytest.mark.parametrize("option", [
    {"num_cpus": -1}, {"num_gpus": -0.5}, {"num_returns": -3}, {"max_retries": -2}, {"num_returns": "many"},
    {"resources": {"CPU": 1}}, {"max_calls": -1},
], ids=str)
def test_a_wrong_option_value_is_refused(option):
    with pytest.raises((ValueError, TypeError)):
        ray.remote(**option)(lambda: None).remote()


@pytest.mark.parametrize("option", [
    {"max_restarts": -2}, pytest.param({"max_concurrency": 0}, marks=pytest.mark.zray_only), {"name": ""}, {"name": 5},
    {"lifetime": "eternal"},
], ids=str)
def test_a_wrong_actor_option_is_refused(option):
    class A:
        pass

    with pytest.raises((ValueError, TypeError)):
        ray.remote(A).options(**option).remote()


def test_remote_takes_a_function_or_a_class():
    with pytest.raises(TypeError):
        ray.remote(5)
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(lambda: None, 6)


@pytest.mark.parametrize("timeout", [pytest.param(-5, marks=pytest.mark.zray_only), "soon"])
def test_a_wrong_timeout_is_refused(timeout):
    with pytest.raises((ValueError, TypeError)):
        ray.get(ray.put(1), timeout=timeout)


def test_init_twice_is_refused_and_can_be_ignored():
    with pytest.raises(RuntimeError, match="calling (ray|zray).init|twice"):
        ray.init()
    ray.init(ignore_reinit_error=True)


def test_shutdown_twice_is_harmless(fresh):
    ray.init(num_cpus=1)
    ray.shutdown()
    ray.shutdown()
    assert not ray.is_initialized()


def test_shutdown_ends_threads_that_wait_in_get(fresh, gate):
    ray.init(num_cpus=1)

    @ray.remote
    def held(gate):
        gate.wait()

    ended = []

    def work():
        try:
            ray.get(ref)
        except exceptions.RayError as error:
            ended.append(error)

    ref = held.remote(gate)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.wait_arrived()
    ray.shutdown()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 4


def test_references_of_an_ended_session_are_refused(fresh):
    ray.init(num_cpus=1)
    ref = ray.put(1)
    ray.shutdown()
    ray.init(num_cpus=1)
    with pytest.raises(exceptions.ObjectLostError if IS_ZRAY else Exception):
        ray.get(ref, timeout=30)
    assert ray.get(ray.put(2)) == 2


def test_remote_functions_and_classes_are_usable_in_the_next_session(fresh):
    @ray.remote
    def f():
        return "f"

    @ray.remote
    class A:
        def g(self):
            return "g"

    for _ in range(2):
        ray.init(num_cpus=1)
        assert ray.get(f.remote()) == "f"
        assert ray.get(A.remote().g.remote()) == "g"
        ray.shutdown()


def test_the_first_use_starts_a_session(fresh):
    assert not ray.is_initialized()
    assert ray.get(ray.put(1)) == 1
    assert ray.is_initialized()


def test_init_is_a_context_manager(fresh):
    with ray.init(num_cpus=1) as context:
        assert context.address_info
        assert ray.is_initialized()
    assert not ray.is_initialized()


@pytest.mark.parametrize("options", [{"num_cpus": -1}, {"resources": {"x": -1}}, {"object_store_memory": 10}], ids=str)
def test_init_refuses_wrong_resources(fresh, options):
    with pytest.raises((ValueError, TypeError)):
        ray.init(**options)
    assert not ray.is_initialized()


@pytest.mark.zray_only
def test_an_object_larger_than_the_store_is_taken_and_what_was_stored_stays(fresh):
    ray.init(num_cpus=1, object_store_memory=100 * 1024 * 1024)
    kept = ray.put(np.arange(1_000_000))
    large = ray.put(np.ones(200 * 1024 * 1024, dtype=np.uint8))
    assert int(ray.get(large).sum()) == 200 * 1024 * 1024
    assert int(ray.get(kept)[-1]) == 999_999


@pytest.mark.zray_only
def test_more_than_the_store_holds_is_spilled_and_read_back(fresh):
    ray.init(num_cpus=1, object_store_memory=80 * 1024 * 1024)
    refs = [ray.put(np.full(10 * 1024 * 1024, i, dtype=np.uint8)) for i in range(16)]
    assert [int(ray.get(ref)[-1]) for ref in refs] == list(range(16))


def test_a_session_directory_without_write_permission_is_named(tmp_path, session_root):
    if not IS_ZRAY or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = run_script(tmp_path, "import zray\nzray.init()\n", check=False, ZRAY_TMPDIR=str(locked))
    assert done.returncode == 1
    assert "locked" in done.stderr


@pytest.mark.zray_only
def test_a_session_directory_that_is_a_file_is_named(tmp_path, session_root):
    (tmp_path / "file").touch()
    done = run_script(tmp_path, "import zray\nzray.init()\n", check=False, ZRAY_TMPDIR=str(tmp_path / "file"))
    assert done.returncode == 1
    assert "file" in done.stderr


@pytest.mark.zray_only
def test_a_low_limit_of_descriptors_is_enough_for_a_session(tmp_path, session_root):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert min(soft, hard) >= 1024
    done = run_script(tmp_path, """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        import zray as ray
        ray.init(num_cpus=2)

        @ray.remote
        class A:
            def f(self):
                return 1

        actors = [A.remote() for _ in range(20)]
        print(sum(ray.get([a.f.remote() for a in actors])))
    """)
    assert done.stdout.strip() == "20"


def test_a_hundred_thousand_pending_tasks():
    @ray.remote
    def f(x):
        return x

    count = 100_000 if IS_ZRAY else 5_000
    refs = [f.remote(i) for i in range(count)]
    assert ray.get(refs[-1]) == count - 1
    assert sum(ray.get(refs)) == count * (count - 1) // 2


def test_bad_settings_in_the_environment_are_named(tmp_path, session_root):
    if not IS_ZRAY:
        pytest.skip("zray's own")
    done = run_script(tmp_path, "import zray\nzray.init()\n", check=False, ZRAY_INLINE_BYTES_MAX="lots")
    assert done.returncode == 1
    assert "ZRAY_INLINE_BYTES_MAX" in done.stderr
