"""What errors say: a header with the place of the run, frames of user code, then the error; the same in Ray."""

from __future__ import annotations

import re
import threading

import pytest

from tests.e2e.target import IS_ZRAY, exceptions, ray


@pytest.fixture(autouse=True)
def _cluster(cluster):
    pass


def uncoloured(error):
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))


def story(error):
    """The text line by line: headers without numbers, frames of this file as "in f", what else is Python's left out."""
    told = []
    for line in uncoloured(error).splitlines():
        if "ray::" in line:
            line = re.sub(r"\(pid=\d+, ip=[\d.]+(, actor_id=[0-9a-f]{32})?", r"(PLACE\1", line)
            told.append(re.sub(r"actor_id=[0-9a-f]+", "actor_id=ID", line))
        elif re.match(r'  File ".*test_error_texts.py", line \d+, in ', line):
            told.append(line.rpartition(", ")[2])
        elif not re.match(r"\s*[~^]+$|    |  File ", line):
            told.append(line.strip())
    return told


def fails(ref, kind=None):
    with pytest.raises(kind or exceptions.RayError) as caught:
        ray.get(ref, timeout=60)
    return caught.value


@ray.remote
def divide():
    return 1 / 0


@ray.remote
def waits(ref):
    return ray.get(ref[0])


@ray.remote
def takes(x):
    return x


class Plain:
    def __init__(self, bad=False):
        if bad:
            raise RuntimeError("no start")

    def fail(self):
        raise ValueError("at work")

    def take(self, x):
        return x

    def __repr__(self):
        return "Plain(7)"


class Async(Plain):
    async def fail(self):
        raise ValueError("at work")


DIVIDE = ["ray::divide() (PLACE)", "in divide", "ZeroDivisionError: division by zero"]


def test_a_task_says_where_it_ran_then_its_frames_then_the_error():
    error = fails(divide.remote(), ZeroDivisionError)
    assert story(error) == DIVIDE
    assert "    return 1 / 0" in str(error)
    assert story(fails(divide.options(name="my division").remote()))[0] == "ray::my division() (PLACE)"


def test_functions_and_classes_inside_others_have_their_bare_names():
    class Inner:
        def fail(self):
            raise KeyError("k")

    def fail():
        raise KeyError("k")

    assert story(fails(ray.remote(fail).remote()))[0] == "ray::fail() (PLACE)"
    assert story(fails(ray.remote(Inner).remote().fail.remote()))[0].startswith("ray::Inner.fail() (PLACE, actor_id=ID")


@pytest.mark.parametrize("kind", ["sync", "async", "threaded"])
def test_a_method_also_names_the_actor_and_its_instance(kind):
    cls = ray.remote(Async if kind == "async" else Plain)
    actor = cls.options(max_concurrency=2).remote() if kind == "threaded" else cls.remote()
    name = "Async" if kind == "async" else "Plain"
    assert story(fails(actor.fail.remote(), ValueError)) == [
        f"ray::{name}.fail() (PLACE, actor_id=ID, repr=Plain(7))", "in fail", "ValueError: at work"]


def test_a_failed_constructor_is_told_with_its_frames():
    error = fails(ray.remote(Plain).remote(True).fail.remote(), exceptions.ActorDiedError)
    begin, *rest = story(error)
    assert begin.startswith("The actor died because of an error raised in its creation task, "
                            "ray::Plain.__init__() (PLACE, actor_id=ID, repr=Plain(7))")
    assert rest == ["in __init__", "RuntimeError: no start"]
    assert error.actor_init_failed and not error.preempted and len(error.actor_id) == 32


def test_an_error_got_from_another_task_has_both_stories():
    inner = ["ray.exceptions.RayTaskError(ZeroDivisionError): " + DIVIDE[0], *DIVIDE[1:]]
    error = fails(waits.remote([divide.remote()]), ZeroDivisionError)
    assert story(error) == ["ray::waits() (PLACE)", "in waits", *inner]


def test_a_failed_argument_is_told_once_for_each_level():
    note = "At least one of the input arguments for this task could not be computed:"
    inner = ["ray.exceptions.RayTaskError: " + DIVIDE[0], *DIVIDE[1:]]
    once = fails(takes.remote(divide.remote()), ZeroDivisionError)
    assert story(once) == ["ray::takes() (PLACE)", note, *inner]
    twice = fails(takes.options(name="outer").remote(takes.remote(divide.remote())), ZeroDivisionError)
    assert story(twice) == ["ray::outer() (PLACE)", note, "ray.exceptions.RayTaskError: ray::takes() (PLACE)", note,
                            *inner]
    actor = ray.remote(Plain).remote()
    assert story(fails(actor.take.remote(divide.remote())))[0].startswith("ray::Plain.take() (PLACE, actor_id=ID")
    broken = fails(ray.remote(Plain).remote(divide.remote()).fail.remote(), exceptions.ActorDiedError)
    assert "creation task, ray::Plain.__init__() (PLACE, actor_id=ID" in story(broken)[0] and story(broken)[1:] == [
        note, *inner]
    assert broken.actor_init_failed


@pytest.mark.parametrize(("end", "kind"), [("kill", "ActorDiedError"), ("exit", "WorkerCrashedError")])
def test_the_task_of_an_argument_that_was_lost_raises_a_task_error_of_that_type(end, kind):
    @ray.remote(max_retries=0)
    def leave():
        raise SystemExit(3)

    if end == "kill":
        actor = ray.remote(Plain).remote()
        ray.kill(actor)
        lost = actor.take.remote(1)
    else:
        lost = leave.remote()
    first = fails(lost, getattr(exceptions, kind))
    assert not isinstance(first, exceptions.RayTaskError)
    error = fails(takes.remote(lost), exceptions.RayTaskError)
    assert isinstance(error, getattr(exceptions, kind)) and isinstance(error.cause, getattr(exceptions, kind))
    assert story(error)[1] == "At least one of the input arguments for this task could not be computed:"
    assert story(error)[2].startswith(f"ray.exceptions.{kind}: The ")


@pytest.mark.zray_only
def test_a_long_chain_of_failed_arguments_has_an_error_of_bounded_size():
    ref = divide.remote()
    for _ in range(2000):
        ref = takes.remote(ref)
    error = fails(ref, ZeroDivisionError)
    assert len(str(error)) < 10_000 and "(1984 more tasks, each an argument of the one before)" in str(error)
    assert story(error)[-len(DIVIDE) + 1:] == DIVIDE[1:]


def test_a_cause_chained_by_from_has_a_story_of_its_own():
    @ray.remote
    def wraps():
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise KeyError("x") from error

    said = story(fails(wraps.remote(), KeyError))
    assert said[0] == "ray::wraps() (PLACE)" and said.count("ray::wraps() (PLACE)") == 2
    assert "The above exception was the direct cause of the following exception:" in said
    assert said[-2:] == ["in wraps", "KeyError: 'x'"]


@pytest.mark.zray_only
@pytest.mark.parametrize("returned", ["lock", "count"])
def test_errors_about_returned_values_have_no_frames_of_the_runtime(returned):
    @ray.remote(num_returns=2 if returned == "count" else 1)
    def returns():
        return threading.Lock() if returned == "lock" else 5

    refs = returns.remote()
    error = fails(refs[0] if returned == "count" else refs)
    assert str(error).startswith("ray::returns() (pid=") and "  File " not in str(error)


def test_attributes_of_a_cause_hide_defaults_of_its_class():
    class Coded(Exception):
        code = 0

        def __init__(self, code):
            super().__init__(code)
            self.code = code

    @ray.remote
    def fail():
        raise Coded(5)

    error = fails(ray.remote(lambda ref: ray.get(ref[0])).remote([fail.remote()]), Coded)
    assert error.cause.code == 5
    if IS_ZRAY:
        assert error.code == 5


# ---------------------------------------------------------------- what cannot be pickled


@ray.remote
class Keeper:
    def __init__(self, x=None):
        pass

    def keep(self, x):
        pass


def test_what_cannot_be_pickled_is_named_first_and_reported_after():
    lock = threading.Lock()
    module = __name__

    @ray.remote
    def captures():
        return lock

    @ray.remote
    class Captures:
        LOCK = lock

    inside = f"{module}.test_what_cannot_be_pickled_is_named_first_and_reported_after.<locals>"
    keeper = Keeper.remote()
    for call, words in [
        (lambda: ray.put(lock), f"the put value {lock!r}:"),
        (lambda: takes.remote(lock), f"the argument {lock!r} for a task or actor {module}.takes:"),
        (lambda: takes.remote(x=lock), f"the argument {lock!r} for a task or actor {module}.takes:"),
        (lambda: Keeper.remote(lock), f"the argument {lock!r} for a task or actor {module}.Keeper.__init__:"),
        (lambda: keeper.keep.remote(lock), f"the argument {lock!r} for a task or actor {module}.Keeper.keep:"),
        (captures.remote, f"the function {inside}.captures:"),
        (Captures.remote, f"the actor class {inside}.Captures.__init__:"),
    ]:
        with pytest.raises(TypeError) as caught:
            call()
        first, bar, checking, *rest = uncoloured(caught.value).splitlines()
        assert first == f"Could not serialize {words}"
        assert set(bar) == {"="} and checking.startswith("Checking Serializability of <")
        assert any(line.startswith("!!! FAIL serialization: ") and "cannot pickle" in line for line in rest)
        assert any(line.startswith("\tFailTuple(") for line in rest) and set(rest[-1]) == {"="}
