"""Errors: what the caller sees when remote code fails."""

from __future__ import annotations

import os
import pickle

import pytest

from tests.e2e.target import exceptions, ray


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


def test_the_callers_exception_is_of_the_users_type_and_of_raytaskerror():
    @ray.remote
    def divide():
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(divide.remote())
    assert isinstance(caught.value, exceptions.RayTaskError)
    assert isinstance(caught.value.cause, ZeroDivisionError)


def test_the_remote_traceback_is_in_the_message():
    @ray.remote
    def a_function_with_a_long_name():
        raise KeyError("missing key")

    with pytest.raises(exceptions.RayTaskError) as caught:
        ray.get(a_function_with_a_long_name.remote())
    text = str(caught.value)
    assert "a_function_with_a_long_name" in text
    assert "missing key" in text
    assert "Traceback" in text or "line" in text


def test_an_error_passes_through_the_tasks_that_depend_on_it():
    @ray.remote
    def fail():
        raise ValueError("origin")

    @ray.remote
    def follow(x):
        return x

    with pytest.raises(ValueError, match="origin"):
        ray.get(follow.remote(follow.remote(fail.remote())))


def test_an_error_raised_by_get_inside_a_task_reaches_the_driver():
    @ray.remote
    def fail():
        raise ValueError("deep inside")

    @ray.remote
    def outer():
        return ray.get(fail.remote())

    with pytest.raises(ValueError, match="deep inside"):
        ray.get(outer.remote())


def test_get_of_a_list_raises_the_error_of_a_failed_task():
    @ray.remote
    def maybe(i):
        if i == 3:
            raise IndexError("third")
        return i

    refs = [maybe.remote(i) for i in range(5)]
    with pytest.raises(IndexError):
        ray.get(refs)
    assert ray.get(refs[:3]) == [0, 1, 2]


def test_every_return_of_a_failed_task_raises():
    @ray.remote(num_returns=2)
    def fail():
        raise OSError(5, "disk")

    for ref in fail.remote():
        with pytest.raises(OSError, match="disk"):
            ray.get(ref)


def test_exceptions_with_arguments_of_their_own_survive():
    class Custom(Exception):
        def __init__(self, code, *, detail):
            super().__init__(f"{code}: {detail}")
            self.code = code

        def __reduce__(self):
            return _rebuild, (Custom, self.code)

    def _rebuild(cls, code):
        return cls(code, detail="rebuilt")

    @ray.remote
    def fail():
        raise Custom(17, detail="first")

    with pytest.raises(exceptions.RayTaskError) as caught:
        ray.get(fail.remote())
    assert "17" in str(caught.value)


def test_an_exception_that_cannot_be_pickled_still_tells_its_story():
    @ray.remote
    def fail():
        error = RuntimeError("holds a lock")
        import threading

        error.lock = threading.Lock()
        raise error

    with pytest.raises(exceptions.RayTaskError, match="holds a lock"):
        ray.get(fail.remote())


def test_an_exception_that_cannot_be_unpickled_still_tells_its_story():
    class Stubborn(Exception):
        def __init__(self, a, b):
            super().__init__(f"stubborn {a} {b}")

    @ray.remote
    def fail():
        raise Stubborn("one", "two")

    with pytest.raises(exceptions.RayError, match="stubborn one two|Stubborn"):
        ray.get(fail.remote())


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt", "StopIteration"])
def test_unusual_exceptions_end_as_errors_not_as_silence(raised):
    @ray.remote(max_retries=0)
    def fail():
        raise getattr(__import__("builtins"), raised)("unusual")

    with pytest.raises(exceptions.RayError):
        ray.get(fail.remote())


@pytest.mark.zray_only
def test_errors_can_be_pickled_by_the_user():
    @ray.remote
    def fail():
        raise ValueError("pickled")

    with pytest.raises(exceptions.RayTaskError) as caught:
        ray.get(fail.remote())
    again = pickle.loads(pickle.dumps(caught.value))
    assert "pickled" in str(again)


def test_the_exception_tree_has_the_fields_names():
    e = exceptions
    assert issubclass(e.RayTaskError, e.RayError)
    assert issubclass(e.ActorDiedError, e.RayActorError)
    assert issubclass(e.ActorUnavailableError, e.RayActorError)
    assert issubclass(e.GetTimeoutError, (e.RayError, TimeoutError))
    assert issubclass(e.GetTimeoutError, TimeoutError)
    for name in ("ObjectFetchTimedOutError", "ObjectFreedError", "OwnerDiedError", "ObjectReconstructionFailedError"):
        assert issubclass(getattr(e, name), e.ObjectLostError)
    for name in (
        "TaskCancelledError WorkerCrashedError LocalRayletDiedError NodeDiedError ObjectStoreFullError OutOfDiskError "
        "OutOfMemoryError RaySystemError RuntimeEnvSetupError TaskPlacementGroupRemoved ActorPlacementGroupRemoved "
        "TaskUnschedulableError ActorUnschedulableError PendingCallsLimitExceeded AsyncioActorExit"
    ).split():
        assert issubclass(getattr(e, name), e.RayError), name


class Stop(BaseException):
    """As pytest's Skipped, eventlet's Timeout."""

    def __init__(self, step, *, why=""):
        super().__init__(step)
        self.step = step
        self.why = why


@pytest.mark.zray_only
@pytest.mark.parametrize("way", ["task", "sync", "async", "threaded", "stream", "constructor", "map", "nested"])
def test_base_exceptions_are_caught_by_their_type(way):
    @ray.remote
    def task(x):
        raise Stop(7, why="enough")

    @ray.remote
    class Sync:
        def method(self):
            raise Stop(7, why="enough")

    @ray.remote
    class Async:
        async def method(self):
            raise Stop(7, why="enough")

    @ray.remote
    class Broken:
        def __init__(self):
            raise Stop(7, why="enough")

        def method(self):
            pass

    @ray.remote
    def stream():
        yield 1
        raise Stop(7, why="enough")

    @ray.remote
    def nested():
        return ray.get(task.remote(1))

    if way == "constructor":
        with pytest.raises(exceptions.ActorDiedError) as died:
            ray.get(Broken.remote().method.remote())
        assert isinstance(died.value.cause, Stop) and died.value.cause.step == 7
        return
    calls = {"task": lambda: task.remote(1), "sync": lambda: Sync.remote().method.remote(),
             "async": lambda: Async.remote().method.remote(), "nested": lambda: nested.remote(),
             "threaded": lambda: Sync.options(max_concurrency=2).remote().method.remote(),
             "stream": lambda: list(stream.remote())[1], "map": lambda: task.map([1])}
    with pytest.raises(Stop) as caught:
        ray.get(calls[way]())
    assert (caught.value.step, caught.value.why) == (7, "enough")
    assert isinstance(caught.value, exceptions.RayTaskError)


@pytest.mark.zray_only
def test_exceptions_are_values_like_any_other():
    class Status(Exception):
        def __init__(self, text, *, code):
            super().__init__(text)
            self.code = code

    @ray.remote
    def batch(given):
        return [1, Status("s", code=404), given]

    one, status, given = ray.get(batch.remote(Status("argument", code=1)))
    assert (one, type(status), status.code, status.args) == (1, Status, 404, ("s",))
    assert (given.code, given.args) == (1, ("argument",))
    assert ray.get(ray.put({"error": Status("put", code=2)}))["error"].code == 2
    assert [error.code for error in ray.get(batch.map([Status("m", code=3)]))[0][1:]] == [404, 3]


# ---------------------------------------------------------------- failed arguments


FAILED_ARGUMENT = "At least one of the input arguments for this task could not be computed:"


@ray.remote
def use(*values):
    return 1


@ray.remote
def bad():
    raise ValueError("seven")


def test_a_task_with_a_failed_argument_names_each_level_and_the_cause_last():
    with pytest.raises(exceptions.RayTaskError) as caught:
        ray.get(use.remote(use.remote(1, bad.remote())))
    text = str(caught.value)
    assert "ray::use()" in text.splitlines()[0]
    assert text.count(FAILED_ARGUMENT) == 2 and text.count("ray::use()") == 2
    assert text.rstrip().endswith("ValueError: seven")
    assert isinstance(caught.value, ValueError) and str(caught.value.cause) == "seven"


def test_a_call_with_a_failed_argument_fails_in_the_same_way():
    @ray.remote
    class Actor:
        def use(self, value):
            return value

    actor = Actor.remote()
    with pytest.raises(exceptions.RayTaskError, match=FAILED_ARGUMENT) as caught:
        ray.get(actor.use.remote(bad.remote()))
    assert isinstance(caught.value, ValueError) and "ray::Actor.use()" in str(caught.value)
    assert ray.get(actor.use.remote(2)) == 2


def test_the_error_of_a_crashed_argument_is_a_task_error_too():
    @ray.remote(max_retries=0)
    def crash():
        os._exit(1)

    crashed = crash.remote()
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        ray.get(crashed)
    assert not isinstance(caught.value, exceptions.RayTaskError)
    with pytest.raises(exceptions.RayTaskError, match=FAILED_ARGUMENT) as caught:
        ray.get(use.remote(crashed))
    assert isinstance(caught.value, exceptions.WorkerCrashedError)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert str(copied) == str(caught.value) and isinstance(copied, exceptions.WorkerCrashedError)


def test_an_actor_whose_argument_failed_says_so():
    @ray.remote
    class Actor:
        def __init__(self, value):
            pass

        def ping(self):
            pass

    with pytest.raises(exceptions.ActorDiedError, match="because of an error raised in its creation task") as caught:
        ray.get(Actor.remote(bad.remote()).ping.remote())
    assert FAILED_ARGUMENT in str(caught.value) and "seven" in str(caught.value)
    assert caught.value.actor_init_failed


@pytest.mark.zray_only
def test_a_long_chain_of_failed_arguments_keeps_its_ends():
    ref = bad.remote()
    for _ in range(2000):
        ref = use.remote(ref)
    with pytest.raises(ValueError) as caught:
        ray.get(ref)
    assert str(caught.value).count(FAILED_ARGUMENT) == 16 and "seven" in str(caught.value)
