"""Exceptions anywhere within a value come back as they were, whatever their constructors take."""

from __future__ import annotations

import asyncio
import copyreg
import dataclasses
import threading

import pytest

from zray.base.errors import RayTaskError, load_error
from zray.values.serialization import dump_error, dumps, loads, to_bytes


class KeywordOnly(Exception):
    def __init__(self, text, *, code):
        super().__init__(text)
        self.code = code


class OtherArguments(OSError):
    def __init__(self, path, reason):
        super().__init__(2, f"{reason} in {path}")
        self.reason = reason


class NewNeedsMore(Exception):
    def __new__(cls, text, *, extra):
        return super().__new__(cls, text)

    def __init__(self, text, *, extra):
        super().__init__(text)
        self.extra = extra


class Slotted(Exception):
    __slots__ = ("where",)

    def __init__(self, where):
        super().__init__("slotted")
        self.where = where


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Group(ExceptionGroup):
    def __new__(cls, errors, note):
        return super().__new__(cls, "group", errors)

    def __init__(self, errors, note):
        self.note = note


class OwnState(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.second = second

    def __reduce__(self):
        return OwnState, (self.args[0], self.second)


class WithSetState(Exception):
    def __setstate__(self, state):
        self.restored = state


class Registered(Exception):
    pass


class Plain(BaseException):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def moved(value):
    return loads(to_bytes(dumps(value)))


@pytest.mark.parametrize("error, fields", [
    (KeywordOnly("s", code=404), {"code": 404}),
    (OtherArguments("/x", "gone"), {"reason": "gone", "errno": 2, "strerror": "gone in /x"}),
    (NewNeedsMore("text", extra=1), {"extra": 1}),
    (Slotted("there"), {"where": "there"}),
    (Frozen(7), {"code": 7}),
    (Group([KeywordOnly("inner", code=1)], "n"), {"note": "n", "message": "group"}),
    (OwnState("one", "two"), {"second": "two"}),
    (Plain(1, 2), {}),
], ids=lambda value: type(value).__name__)
def test_exceptions_within_values_keep_type_arguments_and_fields(error, fields):
    for back in (moved(error), moved([1, {"error": error}])[1]["error"]):
        assert type(back) is type(error) and str(back) == str(error) and repr(back.args) == repr(error.args)
        assert {name: getattr(back, name) for name in fields} == fields


def test_a_class_that_says_how_it_is_restored_is_believed():
    error = WithSetState("x")
    error.value = 3
    assert moved(error).restored == {"value": 3}


def test_a_registered_reduction_is_used(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda error: (Registered, ("registered",)))
    assert moved(Registered("x")).args == ("registered",)


def test_an_exception_that_leads_back_to_itself():
    error = KeywordOnly("s", code=None)
    error.code = [error]
    back = moved(error)
    assert back.code[0] is back


def test_an_attribute_error_does_not_bring_the_object_that_lacked_it():
    class Missing(AttributeError):
        pass

    error = Missing("no such thing", name="thing", obj=threading.Lock())
    back = moved(error)
    assert (type(back), back.name, back.obj) == (Missing, "thing", None)


def test_notes_travel():
    error = KeywordOnly("s", code=1)
    error.add_note("a note")
    assert moved([error])[0].__notes__ == ["a note"]


class Stop(BaseException):
    def __init__(self, step):
        super().__init__(step)
        self.step = step


@pytest.mark.parametrize("raised", [Stop(7), GeneratorExit("done")])
def test_base_exceptions_are_caught_by_their_type(raised):
    error = load_error(dump_error(raised, "f"))
    assert isinstance(error, type(raised)) and isinstance(error, RayTaskError)
    assert getattr(error, "step", None) == getattr(raised, "step", None)


def test_a_group_of_base_exceptions_is_the_cause_of_a_plain_error():
    error = load_error(dump_error(BaseExceptionGroup("some", [Stop(1)]), "f"))
    assert type(error) is RayTaskError and error.cause.exceptions[0].step == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_what_would_end_or_cancel_the_caller_is_a_plain_error(kind):
    class Sub(kind):
        pass

    for cls in (kind, Sub):
        error = load_error(dump_error(cls("x"), "f"))
        assert type(error) is RayTaskError and isinstance(error.cause, kind)
