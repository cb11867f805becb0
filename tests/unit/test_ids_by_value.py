"""Ids made from bytes and hex digits: what has another length or type is refused, and says so."""

from __future__ import annotations

import pickle

import pytest

import zray
from zray.base import ids
from zray.handles import refs

CLASSES = [ids.JobID, ids.ActorID, ids.PlacementGroupID, ids.TaskID, ids.ObjectID, ids.NodeID, ids.WorkerID]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("off", [-1, 1])
def test_an_id_of_another_length_is_refused_from_bytes_and_from_hex(cls, off):
    raw = b"\x05" * (cls.SIZE + off)
    for make in (lambda: cls(raw), lambda: cls.from_hex(raw.hex())):
        with pytest.raises(ValueError, match=f"needs to have length {cls.SIZE}, got {len(raw)}"):
            make()


@pytest.mark.parametrize("cls", [*CLASSES, zray.ObjectRef])
def test_hex_digits_in_place_of_bytes_are_a_type_error_that_says_how(cls):
    with pytest.raises(TypeError, match=r"bytes\.fromhex"):
        cls("05" * 28)


@pytest.mark.parametrize("cls", [*CLASSES, zray.ObjectRef])
def test_an_id_is_made_from_its_bytes_or_hex_digits_and_has_a_width(cls):
    raw = bytes(range(cls.size()))
    for made in (cls(raw), cls.from_binary(raw), cls.from_hex(raw.hex())):
        assert (made.binary(), made.hex(), made.is_nil()) == (raw, raw.hex(), False) and made == cls(raw)
    assert cls.nil().is_nil() and cls.nil().hex() == "ff" * cls.size() and cls.from_random() != cls.from_random()


@pytest.mark.parametrize("raw", [b"", b"\x05" * 27, b"\x05" * 29])
def test_a_reference_from_an_id_of_another_length_is_refused(raw):
    with pytest.raises(ValueError, match=f"needs to have length 28, got {len(raw)}"):
        zray.ObjectRef(raw)


def test_a_reference_by_an_id_that_is_not_known_is_equal_hashed_pickled_and_refused_at_use():
    raw = b"\x05" * 28
    ref = zray.ObjectRef(raw)
    assert ref == zray.ObjectRef(raw) and ref != zray.ObjectRef(b"\x06" * 28) and len({ref, zray.ObjectRef(raw)}) == 1
    assert ref.hex() == raw.hex() and ref.binary() == raw and repr(ref) == f"ObjectRef({raw.hex()})"
    assert isinstance(ref, zray.ObjectRef) and not ref.is_nil() and ref.task_id().binary() == raw[:24]
    assert pickle.loads(pickle.dumps(ref)) == ref
    with pytest.raises(ValueError, match="whose owner is unknown"):
        ref._record
    refs.dropped.clear()
    del ref
    assert not refs.dropped, "it held nothing, so there is nothing to let go of"
