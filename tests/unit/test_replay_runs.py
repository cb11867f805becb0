"""Runs of recordings that are made by hand: what a replay says where they cannot be run, or differ."""

from __future__ import annotations

import random
import threading

import pytest

import zray as ray
from zray.recording.records import (
    PLAIN_TASK,
    Asked,
    Definition,
    Piece,
    Randomness,
    RunEnded,
    RunStarted,
    digest_of,
)
from zray.replay.reading import CannotReplay, RecordedProcess, Recording
from zray.replay.running import Replayer
from zray.values import serialization
from zray.wire.messages import FAILED

FACTS = {"kind": "worker", "pid": 7, "started_ns": 1, "incarnation": b"incarnat", "endpoint": "ipc://x",
         "node": b"node", "node_info": {}, "job": 1, "namespace": ""}
TASK_ID = b"\0\0\0\1" + bytes(12) + (1).to_bytes(8, "little")


def packed(value):
    return serialization.to_bytes(serialization.dumps(value))


def piece(value, **changes):
    payload = packed(value)
    return Piece(digest_of(payload), len(payload), payload)._replace(**changes)


def failure(error):
    return [FAILED, "task_error", serialization.dump_error(error, "f")]


class Records:
    damage = ""

    def __init__(self, records):
        self.records = records

    def __iter__(self):
        return iter(self.records)


def recorded(function, *args, ended=None, asked=(), blob=None, given=None, returns=1, before=(), states=(0, 0)):
    """A recording of one task ``f``; ``ended`` is a list of pieces, or a failure."""
    arguments = piece(args) if given is None else given
    started = RunStarted(1, PLAIN_TASK, TASK_ID, 0, "f", b"key", returns, arguments, [], [], b"", 0, list(states), 1,
                         {})
    failed = ended if ended and ended[0] == FAILED else None
    process = RecordedProcess("worker-7.zrec", Records([
        Definition(b"key", "f", blob or serialization.dump_function(function)[1]), *before, started,
        *[Asked(1, kind, what, answer, b"") for kind, what, answer in asked],
        RunEnded(1, [] if failed else list(ended or ()), failed, -1, 1)]))
    process.facts = FACTS
    return Recording([process])


def replayed(recording):
    said = []
    with Replayer(recording, said.append) as replayer:
        return replayer.task(recording.runs[0]), said


def test_a_run_that_does_the_same_does_not_diverge():
    assert replayed(recorded(lambda x: x + 1, 2, ended=[piece(3)])) == (None, [])


def test_another_value_and_another_error_are_divergences():
    found, _ = replayed(recorded(lambda x: x + 1, 2, ended=[piece(4)]))
    assert (found.what, found.recorded, found.now) == ("its result", "4", "3")
    found, _ = replayed(recorded(lambda x: 1 / x, 0, ended=[piece(4)]))
    assert (found.recorded, found.now) == ("4", "it raises ZeroDivisionError: division by zero")
    found, _ = replayed(recorded(lambda x: 1 / x, 1, ended=failure(ZeroDivisionError("division by zero"))))
    assert (found.recorded, found.now) == ("ZeroDivisionError: division by zero", "1.0")
    found, _ = replayed(recorded(lambda x: {}[x], 0, ended=failure(KeyError(1))))
    assert (found.what, found.recorded, found.now) == ("its error", "KeyError: 1", "KeyError: 0")
    assert replayed(recorded(lambda x: {}[x], 1, ended=failure(KeyError(1)))) == (None, [])


def test_errors_of_returns_are_those_of_a_worker():
    from zray.worker.run import invoke

    wrong = failure(invoke.wrong_count(3, 2))
    assert replayed(recorded(lambda: (1, 2, 3), ended=wrong, returns=2)) == (None, [])
    assert replayed(recorded(lambda: 5, ended=failure(invoke.not_several(5, 2)), returns=2)) == (None, [])
    try:
        serialization.dumps(threading.Lock())
    except TypeError as error:
        assert replayed(recorded(threading.Lock, ended=failure(error))) == (None, [])


def test_the_items_of_a_generator_are_returns_as_a_worker_takes_them():
    from zray.worker.run import invoke

    def items(n):
        yield from range(n)

    assert replayed(recorded(items, 5, ended=[piece(0), piece(1)], returns=2)) == (None, [])  # the rest is dropped
    assert replayed(recorded(items, 0, ended=failure(invoke.wrong_count(0, 1)))) == (None, [])
    found, _ = replayed(recorded(items, 2, ended=[piece(0), piece(7)], returns=2))
    assert (found.what, found.recorded, found.now) == ("return 2", "7", "1")


def test_a_function_that_cannot_be_unpickled_says_so():
    with pytest.raises(CannotReplay, match="f cannot be unpickled: ModuleNotFoundError: No module named 'nowhere'.* "
                                           "Replay where the modules that it imports are installed"):
        replayed(recorded(None, blob=b"\x80\x05\x8c\x07nowhere\x8c\x01f\x93.", ended=[piece(1)]))


def test_arguments_that_are_too_large_for_the_recording_say_so():
    with pytest.raises(CannotReplay, match=r"only the digest of the arguments of f \(00000000:1\): 9000 bytes are more "
                                           "than record_value_bytes_max"):
        replayed(recorded(len, given=Piece(b"d", 9000), ended=[piece(1)]))


def submission(name, *args):
    return ["submit", [name, *piece(args)[:3], [], []], ["ref", bytes(27) + b"\1"]]


@ray.remote
def other(*args):
    raise AssertionError("a replay runs no other task")


def test_what_a_run_asks_is_compared_and_answered():
    def twice():
        return len([other.remote(1), other.remote(2)])

    asked = [submission("other", 1), submission("other", 2)]
    assert replayed(recorded(twice, ended=[piece(2)], asked=asked)) == (None, [])
    found, _ = replayed(recorded(twice, ended=[piece(2)], asked=[asked[0], submission("other", "x")]))
    assert (found.recorded, found.now) == ("other.remote('x')", "other.remote(2)")
    found, _ = replayed(recorded(twice, ended=[piece(2)], asked=asked[:1]))
    assert (found.recorded, found.now) == ("nothing more", "other.remote(2)")
    found, _ = replayed(recorded(twice, ended=[piece(2)], asked=[["get_map", [bytes(16), 1, 5], None]]))
    assert found.now == "other.remote(1)"
    found, _ = replayed(recorded(twice, ended=[piece(2)], asked=[*asked, asked[0]]))
    assert (found.recorded, found.now) == ("it then called other.remote(1)", "it has ended")


def test_a_handler_of_the_run_does_not_hide_a_divergence():
    def hides():
        try:
            other.remote(1)
        except Exception:
            return "hidden"

    found, _ = replayed(recorded(hides, ended=[piece("hidden")], asked=[submission("other", 2)]))
    assert found.recorded == "other.remote(2)"


def test_what_is_not_recorded_is_not_answered():
    def groups():
        from zray.util.placement_group import placement_group

        return placement_group([{"CPU": 1}])

    with pytest.raises(CannotReplay, match="placement groups, key-values and questions to other nodes are not"):
        replayed(recorded(groups, ended=[piece(1)]))


def test_a_thread_of_a_run_that_asks_something_else_is_named():
    def asks():
        try:
            other.remote()
        except BaseException:  # pytest reports what a thread raises
            pass

    def threads():
        thread = threading.Thread(target=asks)
        thread.start()
        thread.join()

    with pytest.raises(CannotReplay, match=r"a thread that f \(00000000:1\) has started asks other.remote\(\)"):
        replayed(recorded(threads, ended=[piece(None)]))


def test_a_run_draws_the_numbers_that_it_drew():
    import pickle

    generator = random.Random(5)
    state = Randomness(1, "random", pickle.dumps(generator.getstate()))
    drawn = generator.random()
    recording = recorded(lambda: random.random(), ended=[piece(drawn)], before=[state], states=(1, 0))
    assert replayed(recording) == (None, [])


def test_a_replay_needs_a_process_without_a_session(monkeypatch):
    from zray.handles import refs

    monkeypatch.setitem(refs._hooks, "runtime", object())
    with pytest.raises(CannotReplay, match="this process is connected to a session"):
        replayed(recorded(len, ended=[piece(1)]))
