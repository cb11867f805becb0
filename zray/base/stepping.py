"""Coroutines with a context of their own at each step, while others run in between on the same thread."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


@types.coroutine
def stepping(coroutine: Coroutine[Any, Any, Any], step: Callable[[Callable[[Any], Any], Any], Any]
             ) -> Generator[Any, Any, Any]:
    """Drive a coroutine: ``step(resume, value)`` sets up its context and returns ``resume(value)``."""
    send = coroutine.send
    resume: Callable[[Any], Any] = send
    value: Any = None
    while True:
        try:
            yielded = step(resume, value)
        except StopIteration as stop:
            return stop.value
        resume = send
        try:
            value = yield yielded
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as thrown:
            resume, value = coroutine.throw, thrown
