"""Samples the stacks of this process's threads for ``zray profile``: one thread that looks some hundred times a second.

A question is ``profile SECONDS HZ``, in a Why message (zray.base.stacks.PROFILE).  The answer is text, with a line for
each stack: ``thread;outermost;...;innermost COUNT``, as flame graph tools read it; or ``error: ...``.  A first line
``# samples N idle M`` counts the looks, and those at which no thread was in user code.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from zray.base.frames import is_own_file

SECONDS_MAX = 300.0
RATE_MAX_HZ = 1000.0
STACK_DEPTH_MAX = 200  # frames of one stack; the outermost of a deeper one are left out
STACKS_MAX = 5_000  # different stacks of one profile; further ones are counted together
FRAME_NAME_MAX = 200  # characters of one frame
# The sampler gets the interpreter lock this soon.  With Python's 5 ms it would mostly get it where a thread gives it up
# by itself, at a system call, and a profile would show little else.
LOCK_SWITCH_S = 0.00005
_running = threading.Lock()


def start(question: bytes, then: Callable[[str], None]) -> str:
    """Sample in a thread of its own and call ``then(text)`` there; an error text where that cannot begin."""
    try:
        _, seconds_text, rate_text = question.split(b" ")
        seconds, rate_hz = float(seconds_text), float(rate_text)
    except ValueError:
        return "error: a profile is asked for with seconds and a rate"
    if not (0 < seconds <= SECONDS_MAX and 0 < rate_hz <= RATE_MAX_HZ):
        return f"error: a profile takes up to {SECONDS_MAX:g} s and {RATE_MAX_HZ:g} samples a second"
    if not _running.acquire(blocking=False):
        return "error: this process is being profiled already"

    def run() -> None:
        try:
            text = sampled(seconds, 1 / rate_hz)
        finally:
            _running.release()
        then(text)

    threading.Thread(target=run, name="zray-profile", daemon=True).start()
    return ""


def sampled(seconds: float, every_s: float) -> str:
    """The stacks of all other threads, as the module's docstring says."""
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(min(switch_s, LOCK_SWITCH_S))
    try:
        return _sampled(seconds, every_s)
    finally:
        sys.setswitchinterval(switch_s)


def _sampled(seconds: float, every_s: float) -> str:
    counts: Counter[str] = Counter()
    samples = idle = 0
    me = threading.get_ident()
    now = time.monotonic()
    until = now + seconds
    while now < until:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        found = [stack for ident, frame in sys._current_frames().items() if ident != me
                 and (stack := _stack(names.get(ident, str(ident)), frame))]
        samples += 1
        idle += not found
        for stack in found:
            counts[stack if stack in counts or len(counts) < STACKS_MAX else "(other stacks)"] += 1
        time.sleep(every_s)
        now = time.monotonic()
    lines = [f"{stack} {count}" for stack, count in counts.most_common()]
    return "\n".join([f"# samples {samples} idle {idle}", *lines])


def _stack(thread: str, frame: FrameType | None) -> str:
    """The frames of user code, outermost first; '' where a thread is in none."""
    parts: list[str] = []
    while frame is not None and len(parts) < STACK_DEPTH_MAX:
        code = frame.f_code
        if not is_own_file(code.co_filename) and code.co_filename != threading.__file__:
            parts.append(_clean(f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"))
        frame = frame.f_back
    return ";".join([_clean(thread), *reversed(parts)]) if parts and not thread.startswith("zray-") else ""


def _clean(name: str) -> str:
    """Without what separates frames and lines."""
    return name[:FRAME_NAME_MAX].replace(";", ",").replace("\n", " ")
