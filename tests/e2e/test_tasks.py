"""Tasks, from the user's side: arguments, returns, options, nesting, definitions of every kind."""

from __future__ import annotations

import os
import random
import threading
import time

import numpy as np
import pytest

from tests.e2e.target import IS_ZRAY, exceptions, ray, until


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


def test_a_task_returns_its_value_and_runs_in_another_process():
    @ray.remote
    def where(x):
        return x + 1, os.getpid()

    value, pid = ray.get(where.remote(41))
    assert value == 42
    assert pid != os.getpid()


def test_positional_variadic_and_keyword_arguments_all_arrive():
    @ray.remote
    def collect(a, b=2, *rest, c, **named):
        return a, b, rest, c, named

    assert ray.get(collect.remote(1, c=3)) == (1, 2, (), 3, {})
    assert ray.get(collect.remote(1, 2, 3, 4, c=5, d=6)) == (1, 2, (3, 4), 5, {"d": 6})


def test_a_wrong_call_fails_at_once_in_the_caller():
    @ray.remote
    def two(a, b):
        return a + b

    with pytest.raises(TypeError):
        two.remote(1)
    with pytest.raises(TypeError):
        two.remote(1, 2, 3)


def test_a_remote_function_cannot_be_called_directly():
    @ray.remote
    def f():
        return 1

    with pytest.raises(TypeError, match="Remote functions cannot be called directly"):
        f()


def test_top_level_references_are_resolved_and_nested_ones_are_not():
    @ray.remote
    def f(x, box, *, y):
        return x, type(box[0]).__name__, ray.get(box[0]), y

    ref = ray.put(7)
    assert ray.get(f.remote(ref, [ref], y=ref)) == (7, "ObjectRef", 7, 7)


@pytest.mark.parametrize("where", ["task", "actor call", "constructor"])
def test_a_reference_that_another_process_owns_is_an_argument_like_any(where):
    @ray.remote
    def make():
        return ray.put("made there")

    @ray.remote
    def read(x):
        return x

    @ray.remote
    class Reader:
        def __init__(self, x=None):
            self.x = x

        def read(self, x=None):
            return x or self.x

    ref = ray.get(make.remote())
    for _ in range(2):  # before its value is known here, and after
        if where == "task":
            answer = read.remote(ref)
        elif where == "actor call":
            answer = Reader.remote().read.remote(ref)
        else:
            answer = Reader.remote(ref).read.remote()
        assert ray.get(answer, timeout=60) == "made there"


def test_a_chain_of_tasks_runs_in_the_order_of_its_dependencies():
    @ray.remote
    def add(x, y):
        return x + y

    ref = add.remote(0, 1)
    for _ in range(100):
        ref = add.remote(ref, 1)
    assert ray.get(ref) == 101


def test_several_returns_become_several_references():
    @ray.remote(num_returns=3)
    def three():
        return 1, "two", [3]

    refs = three.remote()
    assert isinstance(refs, list)
    assert ray.get(refs) == [1, "two", [3]]


def test_zero_returns_give_no_reference():
    @ray.remote(num_returns=0)
    def none():
        return None

    assert none.remote() is None


def test_options_override_the_decorator_for_one_call():
    @ray.remote(num_returns=2)
    def pair():
        return 1, 2

    assert ray.get(pair.options(num_returns=1).remote()) == (1, 2)
    assert ray.get(pair.remote()) == [1, 2]


def test_tasks_submit_tasks():
    @ray.remote
    def fib(n):
        return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert ray.get(fib.remote(8)) == 21


def test_a_task_may_return_a_reference_to_a_task_it_submitted():
    @ray.remote
    def inner():
        return "inner"

    @ray.remote
    def outer():
        return [inner.remote()]

    assert ray.get(ray.get(outer.remote())[0]) == "inner"


def test_get_inside_get_ten_levels_deep_on_one_cpu():
    @ray.remote
    def down(n):
        return 0 if n == 0 else 1 + ray.get(down.remote(n - 1))

    assert ray.get(down.options(num_cpus=4).remote(10)) == 10


def test_lambdas_closures_and_builtins_travel():
    offset = 10

    def shift(x):
        return x + offset

    assert ray.get(ray.remote(lambda x: x * 2).remote(21)) == 42
    assert ray.get(ray.remote(shift).remote(1)) == 11


def test_a_redefined_function_runs_its_new_body():
    def make(value):
        @ray.remote
        def f():
            return value

        return f

    assert [ray.get(make(i).remote()) for i in range(3)] == [0, 1, 2]


def test_a_function_sees_its_closure_as_of_the_first_call():
    box = [1]

    @ray.remote
    def read():
        return box[0]

    assert ray.get(read.remote()) == 1


def test_numpy_arguments_and_results_survive_bit_for_bit():
    @ray.remote
    def double(x):
        return x * 2

    fortran = np.asfortranarray(np.ones((3, 4)))
    for array in (np.arange(5), np.arange(1_000_000.0), np.zeros((0, 3)), np.array("text"), fortran):
        result = ray.get(ray.remote(lambda x: x).remote(array))
        assert result.dtype == array.dtype
        assert np.array_equal(result, array)
    assert np.array_equal(ray.get(double.remote(np.arange(300_000))), np.arange(300_000) * 2)


def test_many_small_tasks_all_answer():
    @ray.remote
    def square(x):
        return x * x

    assert ray.get([square.remote(i) for i in range(2000)]) == [i * i for i in range(2000)]


def test_a_thousand_references_as_arguments():
    @ray.remote
    def total(*values):
        return sum(values)

    assert ray.get(total.remote(*[ray.put(i) for i in range(1000)])) == 499_500


def test_ten_thousand_references_inside_one_argument():
    @ray.remote
    def total(refs):
        return sum(ray.get(refs))

    @ray.remote
    def value(i):
        return i

    assert ray.get(total.remote([value.remote(i % 10) for i in range(10_000)])) == 45_000


def test_three_hundred_returns():
    @ray.remote(num_returns=300)
    def many():
        return range(300)

    assert ray.get(many.remote()) == list(range(300))


def test_random_numbers_differ_between_workers():
    @ray.remote
    def draw():
        return os.getpid(), random.random(), float(np.random.random())

    drawn = ray.get([draw.remote() for _ in range(40)])
    assert len({x for _, x, _ in drawn}) == 40
    assert len({y for _, _, y in drawn}) == 40


def test_environment_variables_of_the_runtime_environment_reach_the_task_and_no_other():
    @ray.remote
    def read():
        return os.environ.get("ZRAY_TEST_VARIABLE")

    assert ray.get(read.options(runtime_env={"env_vars": {"ZRAY_TEST_VARIABLE": "set"}}).remote()) == "set"
    assert ray.get(read.remote()) is None


def test_max_calls_replaces_the_worker():
    @ray.remote(max_calls=1)
    def pid():
        return os.getpid()

    assert len(set(ray.get([pid.remote() for _ in range(4)]))) == 4


def test_a_worker_that_reached_max_calls_stays_while_its_tasks_and_objects_are_needed(gate):
    @ray.remote
    def slow():
        gate.wait()
        return 7

    @ray.remote(max_calls=1)
    def parent():
        return os.getpid(), [slow.remote()]

    pid, refs = ray.get(parent.remote())
    gate.wait_arrived()
    gate.open()
    assert ray.get(refs[0]) == 7
    assert os.path.exists(f"/proc/{pid}")
    del refs
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker ends")


def test_a_fraction_above_one_of_a_whole_resource_is_refused_at_the_call():
    for options in ({"num_gpus": 1.5}, {"resources": {"NPU": 2.5}}):
        task = ray.remote(**options)(lambda: 1)
        with pytest.raises(ValueError, match="whole numbers"):
            task.remote()
        actor = ray.remote(**options)(type("Actor", (), {}))
        with pytest.raises(ValueError, match="whole numbers"):
            actor.remote()


def test_a_task_that_is_cancelled_in_get_raises_a_task_error_and_the_call_goes_on(gate):
    @ray.remote
    class Actor:
        def slow(self):
            gate.wait()
            return 3

    @ray.remote
    def waits(box):
        return ray.get(box[0])

    call = Actor.remote().slow.remote()
    waiting = waits.remote([call])
    gate.wait_arrived()
    until(lambda: _is_blocked(waiting), "the task waits in get")
    ray.cancel(waiting)
    with pytest.raises(exceptions.RayTaskError, match="TaskCancelledError"):
        ray.get(waiting, timeout=30)
    gate.open()
    assert ray.get(call) == 3


def _is_blocked(ref):
    """Ray has no ``explain``: a while is enough there."""
    return "waits in get" in ray.explain(ref) if IS_ZRAY else time.sleep(2) is None


def test_a_task_knows_its_context():
    @ray.remote(name="known")
    def context():
        c = ray.get_runtime_context()
        return c.get_task_id(), c.get_job_id(), c.get_task_name(), c.get_actor_id()

    ref = context.remote()
    task, job, name, actor = ray.get(ref)
    assert task == ref.task_id().hex()
    assert job == ray.get_runtime_context().get_job_id()
    assert name == "known"
    assert actor is None


def test_logical_resources_limit_what_runs_at_once(gate):
    @ray.remote(num_cpus=2)
    def hold():
        gate.wait()

    refs = [hold.remote() for _ in range(3)]
    gate.wait_arrived(2)
    ready, _ = ray.wait(refs, timeout=0.2)
    assert not ready
    assert gate.arrived == 2
    gate.open()
    ray.get(refs)


def test_fractional_cpus_share_a_cpu(gate):
    @ray.remote(num_cpus=0.5)
    def hold():
        gate.wait()

    refs = [hold.remote() for _ in range(8)]
    gate.wait_arrived(8)
    gate.open()
    ray.get(refs)


def test_available_resources_return_when_tasks_end(gate):
    @ray.remote(num_cpus=3)
    def hold():
        gate.wait()

    ref = hold.remote()
    gate.wait_arrived()
    assert ray.cluster_resources()["CPU"] == 4
    assert ray.available_resources().get("CPU", 0) <= 1
    gate.open()
    ray.get(ref)


def test_retry_exceptions_runs_again_until_it_succeeds(tmp_path):
    @ray.remote(max_retries=4, retry_exceptions=[ValueError])
    def flaky():
        attempt = len(os.listdir(tmp_path))
        (tmp_path / str(attempt)).touch()
        if attempt < 3:
            raise ValueError(attempt)
        return attempt

    assert ray.get(flaky.remote()) == 3


def test_retry_exceptions_leaves_other_exceptions_alone(tmp_path):
    @ray.remote(max_retries=4, retry_exceptions=[ValueError])
    def wrong():
        (tmp_path / str(len(os.listdir(tmp_path)))).touch()
        raise KeyError("x")

    with pytest.raises(KeyError):
        ray.get(wrong.remote())
    assert len(os.listdir(tmp_path)) == 1


def test_an_exception_is_not_retried_unless_asked(tmp_path):
    @ray.remote(max_retries=4)
    def wrong():
        (tmp_path / str(len(os.listdir(tmp_path)))).touch()
        raise ValueError("x")

    with pytest.raises(exceptions.RayTaskError):
        ray.get(wrong.remote())
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.zray_only
def test_map_gives_one_reference_a_task_in_order():
    @ray.remote
    def square(x):
        if x == 13:
            raise ZeroDivisionError("unlucky")
        return x * x

    refs = square.map(range(100))
    assert len(refs) == 100
    assert ray.get(refs[:13]) == [i * i for i in range(13)]
    assert ray.get(refs[-1]) == 99 * 99
    with pytest.raises(ZeroDivisionError):
        ray.get(refs[13])

@pytest.mark.zray_only
def test_an_item_of_a_map_that_cannot_be_pickled_fails_alone():
    @ray.remote
    def kind(x):
        return type(x).__name__

    refs = kind.map([1] * 2000 + [threading.Lock()] + ["x"] * 10)
    with pytest.raises(TypeError, match="lock"):
        ray.get(refs[2000], timeout=60)
    assert ray.get([refs[0], refs[1999], refs[2001]], timeout=60) == ["int", "int", "str"]
    with pytest.raises(TypeError, match="lock"):
        ray.get(refs, timeout=60)


@pytest.mark.zray_only
def test_an_item_of_a_map_whose_result_does_not_load_is_an_error_not_a_hang(gate):
    @ray.remote
    def made(x):
        gate.wait()
        return LoadsNowhere(x) if x == 1 else x

    refs = made.map(range(3))
    early = refs[1]  # asked for before the result comes
    gate.open()
    with pytest.raises(ValueError, match="not here"):
        ray.get(early, timeout=60)
    assert ray.get(refs[2], timeout=60) == 2


class LoadsNowhere:
    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return refuse_to_load, (self.x,)


def refuse_to_load(x):
    raise ValueError("not here")


@pytest.mark.zray_only
def test_large_results_of_a_map_are_read_one_by_one_and_outlive_it():
    @ray.remote
    def array(i):
        return np.full(50_000, i)

    refs = array.map(range(8))
    early = [refs[0], refs[1]]
    ray.get(refs, timeout=60)
    late = [refs[6], refs[7]]
    del refs
    assert [int(ray.get(ref, timeout=60)[-1]) for ref in early + late] == [0, 1, 6, 7]


@pytest.mark.zray_only
def test_references_inside_results_of_a_map_outlive_it():
    @ray.remote
    def boxed(i):
        return [ray.put(i)]

    one = boxed.map(range(4))[3]
    box = ray.get(one, timeout=60)
    assert ray.get(box[0], timeout=60) == 3
    del box
    assert ray.get(ray.get(one)[0], timeout=60) == 3


@pytest.mark.zray_only
def test_items_of_a_map_can_be_cancelled_while_they_run_or_wait(gate):
    @ray.remote
    def held(i):
        gate.wait()
        return i

    refs = held.map(range(20))
    gate.wait_arrived()
    first, last = refs[0], refs[19]
    for ref in (first, last):
        ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(first, timeout=60)
    gate.open()
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(last, timeout=60)
    assert ray.get(refs[10], timeout=60) == 10


@pytest.mark.zray_only
def test_starmap_spreads_each_item_over_the_arguments():
    @ray.remote
    def power(base, exponent):
        return base**exponent

    assert ray.get(list(power.starmap([(2, 3), (3, 2), (5, 1)]))) == [8, 9, 5]


def test_multiprocessing_works_inside_a_worker():
    @ray.remote
    def pooled():
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    assert ray.get(pooled.remote()) == [1, 2, 3]
