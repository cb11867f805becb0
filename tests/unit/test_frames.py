"""Tracebacks and stacks without zray's own frames, unless somebody asks for them."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from zray.base import frames, stacks


def compiled(source, name):
    """The functions of a source that claims to be a file of the package."""
    namespace = {}
    exec(compile(source, frames._PACKAGE + name, "exec"), namespace)
    return namespace


OURS = compiled("""
def call(f):
    return f()
def fail():
    raise KeyError("ours")
""", "worker/fake.py")


def formatted(call):
    try:
        call()
    except BaseException as error:
        return frames.format_error(error, error.__traceback__)


def user():
    raise ValueError("theirs")


def test_frames_of_zray_are_left_out_wherever_they_stand():
    text = formatted(lambda: OURS["call"](lambda: OURS["call"](user)))
    assert "in user" in text and frames._PACKAGE not in text and text.endswith("ValueError: theirs\n")


def test_an_error_with_frames_of_zray_alone_keeps_them():
    try:
        OURS["fail"]()
    except KeyError as error:
        text = frames.format_error(error, error.__traceback__.tb_next)
    assert "in fail" in text


def test_a_header_stands_in_the_place_of_each_line_that_begins_a_traceback():
    def chained():
        try:
            user()
        except ValueError as error:
            raise KeyError("Traceback (most recent call last):\nof the user") from error

    try:
        chained()
    except KeyError as error:
        lines = frames.format_error(error, error.__traceback__, "HEADER").splitlines()
    assert lines[0] == "HEADER" and lines.count("HEADER") == 2
    assert not any(line.startswith("Traceback") for line in lines) and "Traceback" in lines[-1]
    bare = ValueError("never raised")
    assert frames.format_error(bare, None, "HEADER") == "HEADER\nValueError: never raised\n"
    group = frames.format_error(ExceptionGroup("all", [bare]), None, "HEADER")
    assert group.splitlines()[0] == "HEADER" and "ValueError: never raised" in group


def test_names_of_exceptions_are_those_that_programs_import():
    from zray.exceptions import TaskCancelledError

    assert frames.format_error(TaskCancelledError("x"), None, "H") == "H\nray.exceptions.TaskCancelledError: x\n"


def test_causes_contexts_and_groups_are_cut_too():
    def chained():
        try:
            OURS["call"](user)
        except ValueError as error:
            raise ExceptionGroup("all", [error]) from error

    text = formatted(chained)
    assert text.count("in user") == 2 and frames._PACKAGE not in text


@pytest.mark.parametrize("value, shown", [("1", True), ("", False), ("0", False)])
def test_the_environment_shows_all_frames(monkeypatch, value, shown):
    monkeypatch.setenv("ZRAY_FULL_TRACEBACKS", value)
    assert (frames._PACKAGE in formatted(lambda: OURS["call"](user))) is shown


def here():
    return frames.format_stack(sys._getframe())


def test_a_stack_begins_where_the_worker_calls_the_user():
    text = OURS["call"](lambda: OURS["call"](here))
    assert "in here" in text and frames._PACKAGE not in text and "pytest" not in text


def test_a_stack_of_a_driver_ends_where_it_calls_zray():
    call = compiled("def get(f):\n    return f()\n", "api.py")["get"]
    text = call(here)
    assert "in test_a_stack_of_a_driver" in text and "pytest" in text and frames._PACKAGE not in text


def test_the_stack_of_an_async_actor_is_without_its_asyncio():
    async def method():
        return here()

    stepping = compiled("async def stepping(f):\n    return await f()\n", "worker/fake.py")["stepping"]
    text = OURS["call"](lambda: asyncio.run(stepping(method)))
    assert "in method" in text and "base_events.py" not in text
    assert "base_events.py" in asyncio.run(method()), "the user's own asyncio is shown"


def test_every_thread_is_in_the_text():
    going, gate = threading.Event(), threading.Event()

    def wait():
        going.set()
        gate.wait()

    threads = [threading.Thread(target=OURS["call"], args=(wait,), name="user's"),
               threading.Thread(target=OURS["call"], args=(gate.wait,), name="zray's")]
    for thread in threads:
        thread.start()
    going.wait()
    texts = {text.partition(":")[0]: text for text in stacks.text().split("thread ")}
    gate.set()
    for thread in threads:
        thread.join()
    assert "in wait" in texts["user's"] and "in call" not in texts["user's"]
    assert "zray's" in texts
