"""Profiles that a process takes of itself, and stacks of coroutines."""

from __future__ import annotations

import asyncio
import sys
import threading

from zray.base import sampling, stacks


def spin(go_on):
    while go_on():
        sum(range(100))


def test_a_profile_counts_the_stacks_of_the_other_threads():
    ends, answers, answered = threading.Event(), [], threading.Event()
    spinner = threading.Thread(target=spin, args=(lambda: not ends.is_set(),), name="spinner;with\nsigns")
    spinner.start()
    before = sys.getswitchinterval()
    try:
        assert sampling.start(b"profile 0.2 200", lambda text: (answers.append(text), answered.set())) == ""
        assert "already" in sampling.start(b"profile 0.1 10", answers.append)
        assert answered.wait(30)
    finally:
        ends.set()
        spinner.join()
    head, *lines = answers[0].split("\n")
    assert head.startswith("# samples ") and sys.getswitchinterval() == before
    [line] = [line for line in lines if line.startswith("spinner,with signs;")][:1]
    assert f"spin ({__file__}:" in line and int(line.rpartition(" ")[2]) > 0
    assert not any(line.startswith("zray-") for line in lines)


def test_a_wrong_question_is_answered_at_once_and_samples_nothing():
    for question in (b"profile", b"profile x y", b"profile 0 100", b"profile 1e9 100", b"profile 1 0", b"profile nan 1",
                     b"profile 1 1e6"):
        assert sampling.start(question, lambda text: None).startswith("error: "), question
    assert not [thread for thread in threading.enumerate() if thread.name == "zray-profile"]


def test_stacks_have_the_coroutines_that_wait_with_what_they_await():
    async def inner():
        await asyncio.sleep(60)

    async def outer():
        await inner()

    async def main():
        task = asyncio.create_task(outer(), name="waits")
        await asyncio.sleep(0)
        text = stacks.text()
        task.cancel()
        return text

    text = asyncio.run(main())
    block = text.partition("coroutine waits:\n")[2].partition("\ncoroutine")[0]
    assert block.index("in outer\n    await inner()") < block.index("in inner\n    await asyncio.sleep(60)")
