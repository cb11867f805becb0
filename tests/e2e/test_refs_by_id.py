"""References made from ids: ``ObjectRef(ref.binary())`` where the process holds another one, and where it does not."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tests.e2e.target import ray

pytestmark = pytest.mark.zray_only


@ray.remote
def read(hexes, keep):
    return [float(np.sum(ray.get(ray.ObjectRef(bytes.fromhex(text)), timeout=30))) for text in hexes]


@ray.remote
def refused(raw):
    """What each use of an unknown id comes to."""
    found = []
    for use in (ray.get, lambda ref: ray.get([ref]), ray.wait, lambda ref: ray.wait([ref]), add.remote,
                lambda ref: add.remote([ref]), lambda ref: ray.put([ref]), lambda ref: ref.future()):
        with pytest.raises(ValueError, match="whose owner is unknown"):
            use(ray.ObjectRef(raw))
        found.append(True)
    return len(found)


@ray.remote
def add(value):
    return value + 1


def test_a_reference_by_id_is_as_good_as_the_one_that_is_held(cluster):
    held = ray.put(41)
    ref = ray.ObjectRef(held.binary())
    assert ref == held and hash(ref) == hash(held) and type(ref) is ray.ObjectRef
    assert ray.get(ref) == 41 and ray.get([ref, held]) == [41, 41] and ray.wait([ref])[0] == [ref]
    assert ray.get(add.remote(ray.ObjectRef(held.binary()))) == 42
    assert pickle.loads(pickle.dumps(ref)) == held


def test_it_keeps_the_object_alive_by_itself(cluster):
    held = ray.put(np.ones(300_000))
    ref = ray.ObjectRef(held.binary())
    del held
    assert ray.get(ref).sum() == 300_000


def test_made_before_the_object_is_known_it_finds_it_when_it_is_used(cluster):
    pending = add.remote(1)
    raw = pending.binary()
    assert ray.get(pending) == 2
    del pending
    ray.get(ray.put(0))  # the driver's loop has let go of it by now
    ref = ray.ObjectRef(raw)
    with pytest.raises(ValueError, match="whose owner is unknown"):
        ray.get(ref)


def test_a_worker_that_was_given_the_references_finds_them_by_their_hex(cluster):
    small, large, result = ray.put(3), ray.put(np.ones(200_000)), add.remote(1)
    held = [small, large, result]
    assert ray.get(read.remote([ref.hex() for ref in held], held)) == [3.0, 200_000.0, 2.0]


def test_each_use_of_an_id_that_the_process_does_not_know_is_a_value_error(cluster):
    held = ray.put(1)
    assert ray.get(refused.remote(held.binary())) == 8
