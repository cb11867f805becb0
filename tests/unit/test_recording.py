"""Records of runs: their frames, the files they are in, and how a recording is read and named."""

from __future__ import annotations

import logging
import os
import pickle
import stat

import pytest
from hypothesis import given, strategies as st

from zray.recording import files
from zray.recording.files import CannotRecord, RecordFile, RecordLimits, claim
from zray.recording.records import (
    ACTOR_CALL,
    CONSTRUCTOR,
    PLAIN_TASK,
    RECORD_FORMAT,
    RECORDING_MAGIC,
    About,
    Asked,
    Definition,
    Frames,
    Item,
    LimitReached,
    NoRecord,
    Piece,
    Randomness,
    RunEnded,
    RunStarted,
    Seen,
    digest_of,
    encode,
)
from zray.replay.reading import CannotReplay, read
from zray.replay.runtime import described, equal, same, same_value
from zray.worker.recording import RandomStates

# ---------------------------------------------------------------- frames

blobs = st.binary(max_size=40)
numbers = st.integers(0, 1 << 40)
failures = st.none() | st.tuples(st.just(2), st.text(max_size=5), blobs).map(list)
pieces = st.builds(Piece, blobs, numbers, st.none() | blobs, blobs, failures)
records = st.one_of(
    st.builds(About, st.dictionaries(st.text(max_size=5), numbers | st.text(max_size=5) | blobs, max_size=4)),
    st.builds(Definition, blobs, st.text(max_size=8), blobs),
    st.builds(Randomness, numbers, st.sampled_from(["random", "numpy"]), blobs),
    st.builds(Seen, blobs, pieces),
    st.builds(RunStarted, numbers, st.sampled_from([PLAIN_TASK, ACTOR_CALL, CONSTRUCTOR]), blobs, numbers,
              st.text(max_size=5), blobs | st.text(max_size=5), st.integers(-2, 9), pieces,
              st.lists(st.text(max_size=3) | numbers, max_size=3), st.lists(pieces, max_size=3), blobs, numbers,
              st.lists(numbers, max_size=2), numbers, st.dictionaries(st.text(max_size=3), numbers, max_size=2)),
    st.builds(RunEnded, numbers, st.lists(pieces, max_size=3), failures, st.integers(-1, 5), numbers),
    st.builds(Asked, numbers, st.text(max_size=5), st.lists(blobs | numbers, max_size=3), st.none() | blobs, blobs),
    st.builds(Item, numbers, numbers, pieces),
    st.builds(LimitReached, numbers))


def read_back(data):
    frames = Frames(data)
    return list(frames), frames.damage


@given(st.lists(records, max_size=6))
def test_records_come_back_as_they_were_written(written):
    assert read_back(RECORDING_MAGIC + b"".join(map(encode, written))) == (written, "")


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_a_torn_tail_costs_its_record_alone(written, data):
    frames = [encode(record) for record in written]
    kept = data.draw(st.integers(0, len(b"".join(frames)) - 1))
    found, damage = read_back(RECORDING_MAGIC + b"".join(frames)[:kept])
    whole = [record for end, record in zip(_ends(frames), written, strict=True) if end <= kept]
    assert found == whole
    assert bool(damage) == (kept not in (0, *_ends(frames)))


def _ends(frames):
    return [sum(map(len, frames[:count])) for count in range(1, len(frames) + 1)]


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_a_changed_byte_is_found(written, data):
    image = bytearray(b"".join(map(encode, written)))
    at = data.draw(st.integers(0, len(image) - 1))
    image[at] ^= data.draw(st.integers(1, 255))
    found, damage = read_back(RECORDING_MAGIC + bytes(image))
    assert damage and found == written[:len(found)] and len(found) < len(written)


def test_another_file_is_no_record():
    with pytest.raises(NoRecord, match="does not begin as a record"):
        Frames(b"PK\x03\x04")


# ---------------------------------------------------------------- folder and files

def limits(folder, bytes_max=1 << 20):
    return RecordLimits(str(folder), 1 << 10, bytes_max)


@pytest.fixture
def no_token(monkeypatch):
    monkeypatch.setenv(files.RECORDING_TOKEN, "")


def test_a_folder_is_private_and_taken_once(tmp_path, no_token, monkeypatch):
    folder = claim(str(tmp_path / "a" / "run"))
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert claim(folder) == folder  # a subprocess of the program, or its next init()
    monkeypatch.setenv(files.RECORDING_TOKEN, "another program")
    with pytest.raises(CannotRecord, match="is not empty: a recording needs a new folder, or an empty one"):
        claim(folder)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, no_token):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotRecord, match="cannot record in .*: .*: choose a folder that can be written"):
        claim(str(tmp_path / "file" / "run"))


def test_a_record_file_is_private_and_each_record_is_in_it_at_once(tmp_path):
    file = RecordFile(limits(tmp_path), "worker-1")
    assert file.append(Definition(b"k", "f", b"blob"))
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    with open(file.path, "rb") as written:
        assert read_back(written.read()) == ([Definition(b"k", "f", b"blob")], "")
    file.close()
    assert not file.append(Definition(b"k", "f", b"blob"))


def test_recording_stops_at_its_limit_with_one_warning(tmp_path, caplog):
    file = RecordFile(limits(tmp_path, bytes_max=200), "worker-1")
    record = Definition(b"k", "f", bytes(100))
    with caplog.at_level(logging.WARNING, "zray"):
        assert [file.append(record) for _ in range(3)] == [True, False, False]
    assert [entry.message for entry in caplog.records if "the program goes on" in entry.message] == [
        f"Recording has stopped in process {os.getpid()}, and the program goes on: the setting record_bytes_max allows "
        "200 bytes."]
    with open(file.path, "rb") as written:
        assert read_back(written.read()) == ([record, LimitReached(200)], "")


def test_a_full_disk_stops_the_recording_and_not_the_program(tmp_path, caplog):
    file = RecordFile(limits(tmp_path), "worker-1")
    os.close(file._descriptor)
    file._descriptor = os.open("/dev/full", os.O_WRONLY)
    with caplog.at_level(logging.WARNING, "zray"):
        assert not file.append(Definition(b"k", "f", b"blob")) and not file.append(Definition(b"k", "f", b"blob"))
    assert len(caplog.records) == 1 and "No space left on device" in caplog.records[0].message


def test_a_worker_without_the_folder_works_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "zray"):
        file = RecordFile(limits(tmp_path / "elsewhere"), "worker-1")
    assert not file.append(Definition(b"k", "f", b"blob"))
    assert len(caplog.records) == 1 and "cannot be made: No such file" in caplog.records[0].message


def test_what_msgpack_cannot_hold_stops_the_recording_and_not_the_program(tmp_path, caplog):
    file = RecordFile(limits(tmp_path), "worker-1")
    with caplog.at_level(logging.WARNING, "zray"):
        assert not file.append(About({"x": object()}))
    assert "About cannot be recorded" in caplog.text


def test_a_fork_of_the_process_writes_nothing(tmp_path):
    file = RecordFile(limits(tmp_path), "worker-1")
    pid = os.fork()
    if not pid:
        os._exit(file.append(LimitReached(1)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    file.close()


def test_a_random_state_is_recorded_when_it_has_changed():
    import random

    import numpy.random

    written = []
    states = RandomStates(written.append)
    first = states.numbers()
    assert states.numbers() == first and [record.source for record in written] == ["random", "numpy"]
    random.random()
    assert states.numbers() == [3, first[1]]
    random.gauss(0, 1)  # it keeps a second one
    states.numbers()
    kept = random.getstate()
    random.gauss(0, 1)
    assert states.numbers() == [5, first[1]] and pickle.loads(written[3].state) == kept
    for _ in range(2):
        numpy.random.standard_normal()
        before = states.numbers()[1]
        assert pickle.loads(written[-1].state)[3:] == numpy.random.get_state()[3:] and written[-1].number == before


# ---------------------------------------------------------------- reading

FACTS = {"format": RECORD_FORMAT, "zray": "0.1.0", "python": "", "kind": "worker", "pid": 7, "started_ns": 1,
         "incarnation": b"i", "endpoint": "", "node": b"n", "node_info": {}, "job": 1, "namespace": "", "cwd": "",
         "sys_path": [], "script": "", "argv": [], "ray_version": "", "hash_seed": ""}


def a_task(number, prefix=1, name="f", attempt=0, at=0, kind=PLAIN_TASK, actor=b"", life=0, **options):
    task = b"\0\0\0\1" + bytes([prefix]) * 12 + number.to_bytes(8, "little")
    return RunStarted(number, kind, task, attempt, name, b"key", 1, Piece(b"", 0), [], [], actor, life, [0, 0],
                      at or number, options)


@pytest.fixture
def recorded(tmp_path):
    import sys

    python = ".".join(map(str, sys.version_info[:3]))

    def write(*written, tail=b"", **facts):
        about = About({**FACTS, "python": python, **facts})
        name = f"worker-{len(os.listdir(tmp_path))}.zrec"
        (tmp_path / name).write_bytes(RECORDING_MAGIC + b"".join(map(encode, (about, *written))) + tail)
        return read(str(tmp_path))

    return write


def test_runs_of_several_processes_come_in_the_order_of_their_starts(recorded):
    recorded(a_task(1, at=5), a_task(3, at=30))
    recording = recorded(a_task(2, at=20), pid=8)
    assert [run.started.time_ns for run in recording.runs] == [5, 20, 30]


def test_a_run_is_named_by_name_number_or_id(recorded):
    recording = recorded(a_task(1, name="outer.<locals>.f"), a_task(2, name="g"), a_task(300, name="g"),
                         a_task(4, 9, name="h"), a_task(5, 9, name="h", attempt=1), RunEnded(5, [], None, -1, 1))
    found = recording.find
    assert found("f").started.number == 1 and found("g#2").started.number == 300
    assert found("01010101:300").started.number == 300 and found(found("g#1").started.task.hex()).started.number == 2
    assert found("09090909:5").started.attempt == 1
    with pytest.raises(CannotReplay, match=r"2 runs are meant by 'g': g \(01010101:2\), g \(01010101:300\)\. Give an "
                                           "id, or g#N for the N-th"):
        found("g")
    with pytest.raises(CannotReplay, match=r"no run is called 'nobody'\. Recorded are .*f \(01010101:1\)"):
        found("nobody")
    with pytest.raises(CannotReplay, match="there is no g#3: 2 runs of g are recorded"):
        found("g#3")


def test_an_actor_is_named_by_its_name_class_or_id(recorded):
    def made(number, name, class_name, actor, life=0):
        started = a_task(number, name=f"{class_name}.__init__", kind=CONSTRUCTOR, actor=actor * 16, life=life)
        return started._replace(options={"mode": "sync", "restored": False, "name": name, "class_name": class_name})

    recording = recorded(made(1, "first", "A", b"\x0a"), made(2, "", "m.B", b"\x0b"), made(3, "", "m.B", b"\x0b", 1))
    assert recording.find_actor("first") is recording.find_actor("A") is recording.find_actor("0a0a")
    assert recording.find_actor("B").started.life == 0 and recording.find_actor("B", 1).started.life == 1
    with pytest.raises(CannotReplay, match=r"has no life 2; recorded are \[0, 1\]"):
        recording.find_actor("B", 2)
    with pytest.raises(CannotReplay, match="no actor is called 'C'"):
        recording.find_actor("C")


def test_what_a_killed_process_left_is_read_and_said(recorded):
    recording = recorded(a_task(1), tail=encode(a_task(2))[:-3])
    assert [run.started.number for run in recording.runs] == [1] and recording.runs[0].end() == "its process ended"
    assert any("its last record, at byte" in note and "is cut off" in note for note in recording.notes())


def test_a_recording_that_this_python_cannot_run_is_refused(recorded, tmp_path):
    with pytest.raises(CannotReplay, match=r"recorded with Python 3\.2\.1, .*: replay it with Python 3\.2$"):
        recorded(python="3.2.1")
    (tmp_path / "worker-0.zrec").unlink()
    with pytest.raises(CannotReplay, match="has format 99 of zray 8.0"):
        recorded(format=99, zray="8.0")


def test_a_folder_without_a_recording_is_refused(tmp_path, no_token):
    with pytest.raises(CannotReplay, match="is no recording"):
        read(str(tmp_path))
    with pytest.raises(CannotReplay, match="cannot read .*: No such file"):
        read(str(tmp_path / "nothing"))
    with pytest.raises(CannotReplay, match="is empty: the program has not called init"):
        read(claim(str(tmp_path / "new")))


# ---------------------------------------------------------------- comparing

values = st.recursive(st.none() | st.integers() | st.text(max_size=3) | st.frozensets(st.integers(), max_size=4),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner,
                                                                                  max_size=3), max_leaves=8)


@given(values, values)
def test_equality_is_that_of_python_for_values_of_one_type(one, other):
    assert equal(one, one)
    assert equal(one, other) == (type(one) is type(other) and one == other and repr_types(one) == repr_types(other))


def repr_types(value):
    if isinstance(value, list):
        return [repr_types(each) for each in value]
    if isinstance(value, dict):
        return {key: repr_types(each) for key, each in value.items()}
    return type(value)


def test_values_whose_pickles_differ_may_be_equal():
    one, other = pickle.dumps({"a": 1, "b": 2}), pickle.dumps({"b": 2, "a": 1})
    assert one != other and same_value(digest_of(one), one, digest_of(other), other)
    assert not same_value(digest_of(one), None, digest_of(other), other)


def test_questions_are_compared_with_their_arguments():
    def submission(name, value, deps=()):
        payload = pickle.dumps(value)
        return [name, digest_of(payload), len(payload), payload, [], list(deps)]

    recorded = submission("f", ({"a": 1, "b": 2},))
    assert same(recorded, submission("f", ({"b": 2, "a": 1},)))
    assert not same(recorded, submission("g", ({"a": 1, "b": 2},)))
    assert not same(recorded, submission("f", ({"a": 1, "b": 3},)))
    assert not same(recorded, submission("f", ({"a": 1, "b": 2},), [bytes(28)]))
    assert described(Asked(1, "submit", submission("f", (1, "x")), None, b"")) == "f.remote(1, 'x')"
