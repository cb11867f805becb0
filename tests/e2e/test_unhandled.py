"""Failures that nobody fetches are printed once on the driver's stderr; those that somebody looked at are not."""

from __future__ import annotations

import re

import pytest

from tests.e2e.scripts import run_script
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the scripts import zray")

# `until` waits for what the driver prints, which its own log handler sees.
START = """
import logging, threading
import zray as ray

lines = []
class Keep(logging.Handler):
    def emit(self, record):
        with said:
            lines.append(record.getMessage())
            said.notify_all()
said = threading.Condition()
logging.getLogger("zray").addHandler(Keep())
logging.getLogger("zray").addHandler(logging.StreamHandler())

def until(words):
    with said:
        assert said.wait_for(lambda: any(words in line for line in lines), 30), (words, lines)

ray.init(num_cpus=2)

@ray.remote
def bad(words):
    raise ValueError(words)
"""


def printed(done):
    """How often each error that is marked as lost is printed in full."""
    assert "Unhandled error (suppress with ZRAY_IGNORE_UNHANDLED_ERRORS=1)" in done.stderr
    return sorted(re.findall(r"^(?:\(.*?\) )?\w+Error: LOST ([\w ]+)$", done.stderr, re.M))


def test_failures_of_tasks_and_actors_that_nobody_fetches(tmp_path, session_root):
    done = run_script(tmp_path, START + """
@ray.remote
class Actor:
    def method(self):
        raise ValueError("LOST method")

@ray.remote
class Broken:
    def __init__(self):
        raise RuntimeError("LOST constructor")

@ray.remote
def stream():
    yield 1
    raise ValueError("LOST stream")

@ray.remote(num_returns=2)
def two():
    raise ValueError("LOST two returns")

@ray.remote(num_returns=0)
def none():
    raise ValueError("LOST no returns")

@ray.remote
def mapped(x):
    raise ValueError("LOST map")

@ray.remote
def follow(x):
    pass

bad.remote("LOST at once")
until("LOST at once")
ref = bad.remote("LOST later")
ray.wait([ref])
del ref
until("LOST later")
actor = Actor.remote()
actor.method.remote()
until("LOST method")
broken = Broken.remote()
until("LOST constructor")
items = stream.remote()
next(items)
del items
until("LOST stream")
two.remote()
until("LOST two returns")
none.remote()
until("LOST no returns")
mapped.map([1])
until("LOST map")
follow.remote(follow.remote(bad.remote("LOST argument")))
until("LOST argument")
held = two.remote()
ray.wait(held)
""")
    # The last one is of a reference that the program holds to its end; the text was there before.
    assert "1 more of its kind, the last: ValueError: LOST two returns" in done.stderr
    assert printed(done) == sorted(["at once", "later", "method", "constructor", "stream", "two returns", "no returns",
                                    "map", "argument"])


def test_a_failure_inside_a_task_is_printed_by_its_worker(tmp_path, session_root):
    done = run_script(tmp_path, START + """
@ray.remote
class Parent:
    def start(self):
        bad.remote("LOST nested")

parent = Parent.remote()
ray.get(parent.start.remote())

import sys
class Watch:
    def __init__(self, stream):
        self.stream = stream
    def write(self, text):
        self.stream.write(text)
        with said:
            lines.append(text)
            said.notify_all()
    def flush(self):
        self.stream.flush()
sys.stderr = Watch(sys.stderr)
until("LOST nested")
sys.stderr = sys.stderr.stream
""")
    assert printed(done) == ["nested"]
    assert re.search(r"^\(.*pid=\d+\) Unhandled error", done.stderr, re.M)


def test_failures_that_somebody_looked_at_are_not_printed(tmp_path, session_root):
    done = run_script(tmp_path, START + """
import asyncio

@ray.remote
class Broken:
    def __init__(self):
        raise RuntimeError("handled constructor")
    def method(self):
        pass

@ray.remote
def pass_on(refs):
    try:
        ray.get(refs[0])
    except ValueError:
        return "handled there"

@ray.remote
def waits(gate):
    ray.get(gate[0])

@ray.remote
def asks():
    try:
        ray.get(bad.remote("handled inside"))
    except ValueError:
        return "handled inside"

@ray.remote
class Gate:
    async def closed(self):
        await asyncio.Event().wait()

def expect(call):
    try:
        call()
    except Exception:
        return
    raise SystemExit("no error")

async def awaiting(ref):
    await ref

expect(lambda: ray.get(bad.remote("handled by get")))
expect(lambda: ray.get([bad.remote("handled first"), bad.remote("handled second")]))
expect(lambda: asyncio.run(awaiting(bad.remote("handled by await"))))
expect(lambda: bad.remote("handled by future").future().result())
expect(lambda: ray.get(bad.map(["handled by map", "handled by map too"])))
expect(lambda: ray.get(pass_on.remote(bad.remote("handled as argument"))))
print(ray.get(pass_on.remote([bad.remote("handled as a part")])), ray.get(asks.remote()))
broken = Broken.remote()
expect(lambda: ray.get(broken.method.remote()))
gate = Gate.remote()
closed = gate.closed.remote()
cancelled = waits.remote([closed])
ray.cancel(cancelled)
del cancelled, closed
ray.kill(gate)
""")
    assert done.stdout == "handled there handled inside\n"
    assert "handled" not in done.stderr and "Unhandled" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["ZRAY_IGNORE_UNHANDLED_ERRORS", "RAY_IGNORE_UNHANDLED_ERRORS"])
def test_the_environment_turns_it_off(tmp_path, session_root, name):
    done = run_script(tmp_path, START + """
refs = [bad.remote("silent") for _ in range(3)]
ray.wait(refs, num_returns=3)
del refs
""", **{name: "1"})
    assert "silent" not in done.stderr


def test_many_failures_of_a_kind_are_counted(tmp_path, session_root):
    done = run_script(tmp_path, START + """
refs = [bad.remote(f"LOST {n}") for n in range(1000)]
ray.wait(refs, num_returns=len(refs))
del refs
ray.shutdown()
""")
    shown = printed(done)
    (more,) = re.findall(r"(\d+) more of its kind, the last: ValueError: LOST \d+", done.stderr)
    assert len(shown) + int(more) == 1000 and len(shown) <= 5


def test_a_log_handler_that_raises_or_submits_tasks_stops_nothing(tmp_path, session_root):
    done = run_script(tmp_path, START + """
@ray.remote
def good():
    return 1

class Raises(logging.Handler):
    def emit(self, record):
        found.append(ray.get(good.remote()))
        raise OSError("the handler's own fault")

found = []
logging.getLogger("zray").addHandler(Raises())
ref = bad.remote("LOST task")
ray.wait([ref])
del ref
until("LOST task")
print(good.remote().future().result(30), found)
""")
    assert done.stdout == "1 [1]\n" and "the handler's own fault" in done.stderr
