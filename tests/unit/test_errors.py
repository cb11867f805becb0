"""Errors: Ray's tree, the user's type through a task, text that always survives, failures from the wire."""

from __future__ import annotations

import builtins
import copy
import pickle
import re

import pytest
from hypothesis import given, strategies as st

from zray import exceptions
from zray.base import errors
from zray.base.argument_errors import LEVELS_MAX, TEXT, argument_failed, innermost
from zray.base.exits import OUT_OF_MEMORY
from zray.values.serialization import dump_error, load_error


def through_a_task(error: BaseException, name: str = "f"):
    """What ``get`` raises for an error raised in task ``name``."""
    try:
        raise error
    except BaseException as caught:
        return load_error(dump_error(caught, name))


class TwoArguments(Exception):
    """Its constructor takes other arguments than it passes on: a plain pickle of it cannot be loaded."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Refuses(Exception):
    def __reduce__(self):
        raise RuntimeError("I do not travel")


class LoadsBadly(Exception):
    def __reduce__(self):
        return int, ("not a number",)


class Final(Exception):
    def __init_subclass__(cls):
        raise TypeError("no subclasses")


class NeedsArguments(Exception):
    def __new__(cls, must, too):
        return super().__new__(cls, must)

    def __init__(self, must, too):
        super().__init__(must)

    def __reduce__(self):
        return NeedsArguments, (*self.args, "too")


class SlottedError(Exception):
    __slots__ = ("extra",)


def test_except_clauses_for_the_users_type_work():
    with pytest.raises(ZeroDivisionError) as caught:
        raise through_a_task(ZeroDivisionError("division by zero"))
    error = caught.value
    assert isinstance(error, exceptions.RayTaskError)
    assert type(error.cause) is ZeroDivisionError
    assert "in through_a_task" in str(error) and str(error).startswith("ray::f() (pid=")
    assert type(error).__name__ == "RayTaskError(ZeroDivisionError)"
    assert error.args == ("division by zero",)


@pytest.mark.parametrize("name", sorted(
    name for name, cls in vars(builtins).items()
    if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, (Warning, ExceptionGroup))
    and not issubclass(cls, UnicodeError)))
def test_every_builtin_exception_passes_through(name):
    cls = getattr(builtins, name)
    error = through_a_task(cls("words"))
    assert isinstance(error, cls) and isinstance(error, errors.RayTaskError)
    assert "words" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


def test_fields_that_live_in_c_structs_are_there():
    error = through_a_task(FileNotFoundError(2, "No such file", "/x"))
    assert (error.errno, error.filename) == (2, "/x")
    error = through_a_task(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"))
    assert isinstance(error, UnicodeDecodeError) and (error.start, error.end, error.reason) == (0, 1, "bad byte")


def test_an_exception_that_plain_pickle_cannot_load_keeps_its_type():
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(TwoArguments(1, "x")))
    error = through_a_task(TwoArguments(1, "x"))
    assert isinstance(error, TwoArguments) and error.code == 1 and error.cause.args == ("1: x",)


@pytest.mark.parametrize("outer", [
    errors.ActorDiedError("died"), errors.ActorAlreadyExistsError("taken"), errors.RayTaskError("f", "text")])
def test_an_error_travels_with_a_cause_that_plain_pickle_cannot_load(outer):
    outer.cause = TwoArguments(1, "x")
    outer.cause.deeper = ValueError("y")
    for again in (pickle.loads(pickle.dumps(outer)), copy.deepcopy(outer), copy.copy(outer)):
        assert type(again.cause) is TwoArguments and again.cause.code == 1 and again.cause.args == ("1: x",)
        assert isinstance(again.cause.deeper, ValueError) and str(again) == str(outer)


def test_exception_groups_and_notes_pass_through():
    inner = ValueError("one")
    inner.add_note("a note")
    error = through_a_task(ExceptionGroup("many", [inner, KeyError("two")]))
    assert [type(e) for e in error.cause.exceptions] == [ValueError, KeyError]
    assert "a note" in str(error)


@pytest.mark.parametrize("bad", [Refuses("r"), LoadsBadly("l")])
def test_text_survives_where_the_exception_does_not(bad):
    error = through_a_task(bad)
    assert type(error) is errors.RayTaskError and error.cause is None
    assert type(bad).__name__ in str(error) and "could not be brought back" in str(error)


@pytest.mark.parametrize("awkward", [Final("f"), NeedsArguments("n", 1)])
def test_types_that_cannot_be_inherited_from_fall_back_to_plain_task_errors(awkward):
    error = through_a_task(awkward)
    assert type(error) is errors.RayTaskError
    assert type(error.cause) is type(awkward)


def test_slots_of_exceptions_pass_through():
    bad = SlottedError("s")
    bad.extra = 5
    assert through_a_task(bad).extra == 5


def test_a_type_of_main_that_is_gone_leaves_the_text():
    record = errors.TaskErrorRecord("f", "Traceback ...\nGone: x", "Gone", 1, "127.0.0.1", b"cno_such_module\nGone\n.")
    error = load_error(record.to_bytes())
    assert type(error) is errors.RayTaskError and "Gone: x" in str(error) and "no_such_module" in str(error)


def test_an_error_that_passes_through_two_tasks_keeps_type_and_both_texts():
    first = through_a_task(ZeroDivisionError("deep"), "inner")
    second = through_a_task(first, "outer")
    assert isinstance(second, ZeroDivisionError) and type(second.cause) is ZeroDivisionError
    assert str(second).startswith("ray::outer()") and "inner()" in str(second)


def test_exits_do_not_pass_through_except_exception():
    error = through_a_task(SystemExit(3))
    assert not isinstance(error, SystemExit) and type(error) is errors.RayTaskError


def test_an_exception_whose_str_raises_is_still_reported():
    class Mute(Exception):
        def __str__(self):
            raise ValueError("no words")

    assert "Mute" in str(through_a_task(Mute()))


def test_attributes_of_the_cause_are_reachable_and_others_are_named():
    error = through_a_task(TwoArguments(1, "x"))
    assert error.code == 1
    with pytest.raises(AttributeError):
        error.nothing  # noqa: B018


@pytest.mark.parametrize("kind", sorted({*errors.failure_kinds()} - {"task_error", errors.ARGUMENT}))
@pytest.mark.parametrize("detail", [
    {}, {"actor": b"\x01" * 16, "task": b"\x02" * 24, "oid": b"\x03" * 28, "class_name": "A", "name": "f", "pid": 12,
         "signal": 9, "exit_code": 0, "log_tail": "one\ntwo\n", "attempts": 4, "reason": "words",
         "args": 1, "__class__": 2}])
def test_every_kind_of_failure_becomes_an_exception_that_pickles(kind, detail):
    error = errors.from_failure(kind, detail)
    assert isinstance(error, errors.RayError) and str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.args == error.args and again.__dict__ == error.__dict__


def test_an_argument_that_failed_gives_an_error_of_its_type_with_each_task_named():
    first = [2, "actor_died", {"actor": b"\x01" * 16, "class_name": "A", "pid": 12, "reason": "it was tired"}]
    middle = argument_failed("inner", first)
    error = errors.from_failure(*argument_failed("A.outer", middle, b"\x02" * 16, 7)[1:])
    assert isinstance(error, exceptions.RayTaskError) and isinstance(error, exceptions.ActorDiedError)
    assert error.cause.actor_id == "01" * 16 and error.actor_id == "01" * 16
    assert str(error).splitlines()[:5] == [
        f"ray::A.outer() (pid=7, ip=127.0.0.1, actor_id={'02' * 16})", f"  {TEXT}",
        "ray.exceptions.RayTaskError: ray::inner() (pid=12, ip=127.0.0.1)", f"  {TEXT}",
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."]
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and type(again) is type(error)
    assert isinstance(errors.from_failure(errors.ARGUMENT, {}), exceptions.RaySystemError)


@given(st.integers(1, 100))
def test_failures_of_a_chain_of_tasks_keep_both_its_ends(length):
    failure = first = [2, "cancelled", {"name": "f"}]
    for place in range(length):
        failure = argument_failed(str(place), failure)
    assert innermost(failure) is first and innermost(first) is first
    skipped, names, each = failure[2]["skipped"], [], failure
    while each is not first:
        names.append(each[2]["name"])
        each = each[2]["failure"]
    every = [str(place) for place in reversed(range(length))]
    assert names == (every if length <= LEVELS_MAX else [every[0], *every[1 - LEVELS_MAX:]])
    assert len(names) + skipped == length == str(errors.from_failure(*failure[1:])).count(TEXT) + skipped


def test_a_crash_says_signal_exit_code_and_last_lines():
    detail = {"pid": 77, "signal": 11, "exit_code": 0, "log_tail": "almost done\nboom", "name": "f", "attempts": 4}
    error = errors.from_failure("worker_crashed", detail)
    text = str(error)
    assert isinstance(error, exceptions.WorkerCrashedError)
    assert "SIGSEGV" in text and "pid=77" in text and "boom" in text and "attempt 4 of 4" in text
    assert (error.pid, error.signal) == (77, 11)
    assert "exited with code 3" in str(errors.from_failure("worker_crashed", {"exit_code": 3}))


def test_an_actor_that_ended_for_memory_is_dead_and_out_of_memory():
    reason = f"{OUT_OF_MEMORY}: 1 GiB of 1 GiB were in use"
    error = errors.from_failure("actor_died", {"actor": b"a" * 16, "class_name": "A", "reason": reason})
    assert isinstance(error, errors.ActorDiedError) and isinstance(error, errors.OutOfMemoryError)
    assert reason in str(error) and type(pickle.loads(pickle.dumps(error))) is errors.ActorOutOfMemoryError
    assert not isinstance(errors.from_failure("actor_died", {"reason": "killed"}), errors.OutOfMemoryError)


def test_a_constructor_that_raised_is_the_cause_of_the_actors_death():
    payload = dump_error(ValueError("bad size"), "A.__init__")
    error = errors.from_failure("actor_died", {"actor": b"\x01" * 16, "class_name": "A", "error": payload})
    assert "creation task" in str(error) and "bad size" in str(error)
    assert isinstance(error.cause, ValueError) and error.actor_id == "01" * 16


@pytest.mark.parametrize("kind", sorted(errors._KINDS))
@pytest.mark.parametrize("detail", [{}, {"reason": ""}], ids=["no reason", "an empty reason"])
def test_an_error_without_a_reason_leaves_no_gap_in_its_sentence(kind, detail):
    about = {"class_name": "A", "actor": b"\x01" * 16, "node": b"\x02" * 8, "name": "f"}
    text = str(errors.from_failure(kind, about | detail))
    assert not re.search(r"[:;,] *[.;:,)]|\( *[.;:,]| \(\)|  |\b(None|nan)\b", text), text


@pytest.mark.parametrize("restarting", [False, True])
def test_an_unavailable_actor_says_how_its_process_ended(restarting):
    detail = {"class_name": "A", "actor": b"\x01" * 16, "pid": 77, "signal": 9, "reason": "", "restarting": restarting}
    text = str(errors.from_failure("actor_unavailable", detail))
    assert "its process (pid=77) was killed by SIGKILL" in text
    assert ("The actor is restarting" in text) is restarting


def test_unknown_kinds_are_named():
    error = errors.from_failure("from_the_future", {"reason": "new"})
    assert isinstance(error, exceptions.RaySystemError) and "from_the_future" in str(error)


def test_the_tree_is_rays():
    e = exceptions
    assert issubclass(e.GetTimeoutError, TimeoutError) and e.ZrayError is e.RayError
    assert issubclass(e.ActorDiedError, e.RayActorError) and issubclass(e.ActorUnavailableError, e.RayActorError)
    for cls in (e.OwnerDiedError, e.ObjectFreedError, e.ObjectFetchTimedOutError, e.ObjectReconstructionFailedError):
        assert issubclass(cls, e.ObjectLostError)
    for name in e.__all__:
        assert issubclass(getattr(e, name), e.RayError)
