"""The types and messages of failures that the state API shows, without unpickling an exception."""

from __future__ import annotations

import pickle

import pytest

from zray.base import errors
from zray.base.argument_errors import argument_failed
from zray.base.error_types import USER_EXCEPTION, error_of, type_of
from zray.wire.messages import FAILED

ACTOR = b"\x02" * 16
RAISED = errors.TaskErrorRecord("inner", "ray::inner() (pid=12, ip=10.0.0.1)\nValueError: no", "ValueError", 12,
                                "10.0.0.1", pickle.dumps(ValueError("no"))).to_bytes()
TASK = [FAILED, "task_error", RAISED]
CRASHED = [FAILED, "worker_crashed", {"name": "f", "pid": 5}]


@pytest.mark.parametrize(("failure", "name"), [
    (CRASHED, "WORKER_DIED"),
    (argument_failed("g", TASK), "DEPENDENCY_RESOLUTION_FAILED"),
    (argument_failed("A.h", argument_failed("g", TASK), ACTOR, 7), "DEPENDENCY_RESOLUTION_FAILED"),
    (argument_failed("g", CRASHED), "DEPENDENCY_RESOLUTION_FAILED"),
    (argument_failed("g", [FAILED, "actor_died", {"actor": ACTOR, "error": RAISED}]), "DEPENDENCY_RESOLUTION_FAILED"),
    ([FAILED, "actor_died", {"actor": ACTOR, "error": RAISED}], "ACTOR_DIED"),
    ([FAILED, "actor_died", {"actor": ACTOR, "argument": argument_failed("A.__init__", TASK, ACTOR)}], "ACTOR_DIED"),
    ([FAILED, "cancelled", {"task": b"1" * 24, "name": "f", "waited": True}], "TASK_CANCELLED"),
])
def test_the_message_is_the_text_of_the_exception(failure, name):
    assert error_of(*failure[1:]) == [name, str(errors.from_failure(*failure[1:]))]


def test_the_message_of_an_exception_of_user_code_says_so():
    assert error_of("task_error", RAISED) == [
        "TASK_EXECUTION_EXCEPTION", f"{USER_EXCEPTION}ray::inner() (pid=12, ip=10.0.0.1)\nValueError: no"]


def test_every_kind_of_failure_but_those_of_the_system_has_a_type():
    assert {kind for kind in errors.failure_kinds() if type_of(kind) == "SYSTEM_ERROR"} == {
        "bad_returns", "pending_calls", "session_ended", "store_full", "system"}


@pytest.mark.parametrize("bad", [argument_failed("g", [FAILED, "task_error", errors.TaskErrorRecord(
    "f", "text", "T", 1, "ip", b"no pickle").to_bytes()])])
def test_nothing_is_unpickled(bad):
    assert error_of(*bad[1:])[1].endswith("text")
