"""The log of kept results against a list of everything that was ever written, and its files cut off anywhere."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zray.core.resume_folder import ResumeFolder
from zray.owner.kept_results import ResultLog, decode, encode, head_of, record_bytes, scan

BYTES_MAX = 16_000
KEPT_S = 100.0
keys = st.integers(0, 6).map(lambda number: bytes([number]) * 16)


class ResultLogModel(RuleBasedStateMachine):
    """Oracle: all records in the order of writing, each with its segment, and the set of segments that were dropped."""

    def __init__(self):
        super().__init__()
        self.log = self.fresh()
        self.written = []  # [key, segment, start, size, time]
        self.gone = set()
        self.unreadable = set()  # indices of records that were forgotten
        self.touched = {}  # segment -> when a write into it failed
        self.now = 1000.0

    def fresh(self):
        log = ResultLog(BYTES_MAX, KEPT_S)
        log.segment_bytes = 3000
        return log

    def drop(self, segments):
        assert segments == sorted(segments) and not self.gone & set(segments)
        self.gone.update(segments)

    def live(self):
        newest = {}
        for index, record in enumerate(self.written):
            newest[record[0]] = index, record
        return {key: record for key, (index, record) in newest.items()
                if record[1] not in self.gone and index not in self.unreadable}

    def bytes_of(self, segment):
        return sum(record[3] for record in self.written if record[1] == segment)

    @rule(key=keys, nbytes=st.integers(1, BYTES_MAX // 2))
    def add(self, key, nbytes):
        place, dropped = self.log.add(key, nbytes, self.now)
        segments = {record[1] for record in self.written} - self.gone
        assert dropped == sorted(segments | set(dropped))[:len(dropped)]  # the oldest first
        left = sum(self.bytes_of(segment) for segment in segments)
        if dropped:  # no more than needed
            assert left + nbytes > BYTES_MAX
            assert left - sum(self.bytes_of(one) for one in dropped[:-1]) + nbytes > BYTES_MAX
        self.drop(dropped)
        assert place.start == self.bytes_of(place.segment)
        self.written.append([key, place.segment, place.start, nbytes, self.now])

    @rule(key=keys, nbytes=st.integers(1, BYTES_MAX // 2), is_clean=st.booleans())
    def cannot_write(self, key, nbytes, is_clean):
        """An earlier record of the key is gone as well: the task has run again since."""
        self.add(key, nbytes)
        record = self.written.pop()
        self.touched[record[1]] = self.now
        self.log.failed(key, self.log.places[key], is_clean)
        self.forget(key)
        if not is_clean:
            self.written.append([b"torn" * 4, *record[1:]])
            self.unreadable.add(len(self.written) - 1)

    @rule(seconds=st.sampled_from([1.0, 40.0, 99.0, 150.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def expire(self):
        newest = {}
        for _, segment, _, _, time_s in self.written:
            newest[segment] = max(newest.get(segment, 0.0), time_s, self.touched.get(segment, 0.0))
        old = sorted(one for one, time_s in newest.items() if one not in self.gone and time_s < self.now - KEPT_S)
        dropped = self.log.expire(self.now)
        assert dropped == old
        self.drop(dropped)

    @rule(key=keys)
    def forget(self, key):
        self.log.forget(key)
        self.unreadable |= {index for index, record in enumerate(self.written) if record[0] == key}

    @precondition(lambda self: not self.unreadable)  # on disk these are still there
    @rule()
    def run_again(self):
        """Another run reads the segments that are there."""
        self.log = self.fresh()
        self.written = [record for record in self.written if record[1] not in self.gone]
        self.gone = set()  # their numbers may come again
        self.touched = {}
        segments = sorted({record[1] for record in self.written})
        for segment in segments:
            records = [(key, time_s, start, size) for key, one, start, size, time_s in self.written if one == segment]
            self.log.load(segment, records, self.bytes_of(segment))
        assert self.log.shrink() == []

    @invariant()
    def agrees(self):
        self.log.check()
        found = {key: (place.segment, place.start, place.nbytes) for key, place in self.log.places.items()}
        assert found == {key: tuple(record[1:4]) for key, record in self.live().items()}


TestResultLog = ResultLogModel.TestCase
TestResultLog.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_smaller_bound_drops_the_oldest_segments_at_the_next_run():
    log = ResultLog(1000, KEPT_S)
    for number in (3, 5, 8):
        log.load(number, [(bytes([number]) * 16, 1.0, 0, 400)], 400)
    assert log.shrink() == [3]
    log.check()
    assert log.add(b"x" * 16, 300, 2.0)[1] == [5]


records = st.lists(st.tuples(keys, st.integers(0, 1), st.lists(st.binary(max_size=40), max_size=3)), max_size=6)


@given(records, st.data())
def test_of_a_log_that_is_cut_off_all_whole_records_before_are_found(written, data):
    raw, ends = b"", []
    for key, flags, values in written:
        raw += b"".join(encode(key, flags, values, 7.0))
        ends.append(len(raw))
        assert len(raw) == (ends[-2] if len(ends) > 1 else 0) + record_bytes(list(map(len, values)))
    cut = data.draw(st.integers(0, len(raw)))
    found = list(scan(lambda start, size: raw[:cut][start:start + size], cut))
    assert [start + size for _, _, start, size in found] == [end for end in ends if end <= cut]
    for (key, flags, values), (_, _, start, size) in zip(written, found, strict=False):
        again = decode(raw[start:start + size], key)
        assert again is not None and (again[0], list(map(bytes, again[1]))) == (flags, values)


@given(keys, st.lists(st.binary(max_size=40), max_size=3), st.data())
def test_a_record_with_a_changed_byte_is_not_read(key, values, data):
    raw = bytearray(b"".join(encode(key, 0, values, 7.0)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(raw), key) is None
    assert decode(b"".join(encode(key, 0, values, 7.0)), b"other" * 3 + b"o") is None
    assert head_of(b"") is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(keys, st.lists(st.binary(max_size=300), max_size=2)), min_size=1, max_size=8),
       st.integers(0, 200), st.booleans())
def test_a_folder_after_a_kill_in_the_middle_of_a_write_has_what_was_written(written, torn, restart):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "job")
        folder = ResumeFolder(path, 1 << 20, KEPT_S)
        expected = {}
        for index, (key, values) in enumerate(written):
            assert folder.write(key, index, values)
            expected[key] = index, values
            if restart and index == 2:
                folder.close()
                folder = ResumeFolder(path, 1 << 20, KEPT_S)
        folder.close()
        last = sorted(name for name in os.listdir(path) if name.startswith("results-"))[-1]
        with open(os.path.join(path, last), "ab") as file:  # the record that was being written
            file.write(b"".join(encode(b"k" * 16, 0, [b"v" * 200], 1.0))[:torn])
        with contextlib.closing(ResumeFolder(path, 1 << 20, KEPT_S)) as folder:
            found = {key: folder.read(key) for key in folder.log.places}
        assert {key: (flags, list(map(bytes, values))) for key, (flags, values) in found.items()} == expected


@pytest.mark.parametrize("nbytes", [5_000, 200_000])  # of one write, and of several
def test_a_full_disk_loses_no_result_and_takes_the_next_that_fits(tmp_path, nbytes):
    folder = ResumeFolder(str(tmp_path / "job"), 1 << 24, KEPT_S)
    assert folder.write(b"a" * 16, 0, [b"first"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        for _ in range(3):
            with pytest.raises(OSError, match="too large"):
                folder.write(b"b" * 16, 0, [bytes(nbytes)])
        assert folder.write(b"c" * 16, 0, [b"third"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder.log.check()
    assert len(list((tmp_path / "job").glob("results-*"))) == 1
    assert folder.write(b"b" * 16, 0, [bytes(nbytes)])
    folder.close()
    with contextlib.closing(ResumeFolder(str(tmp_path / "job"), 1 << 24, KEPT_S)) as folder:
        found = {key[:1]: [bytes(value) for value in folder.read(key)[1]] for key in folder.log.places}
    assert found == {b"a": [b"first"], b"b": [bytes(nbytes)], b"c": [b"third"]}
