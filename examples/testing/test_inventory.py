"""Tests as a user writes them: fixtures, parameters, exceptions of the user's own type, marks, monkeypatch."""

from __future__ import annotations

import os
import pickle

import pytest
from inventory import Inventory, OutOfStock

import zray as ray

LARGE = 7


def test_what_is_taken_is_gone(inventory):
    assert ray.get([inventory.take.remote("bolt", 4), inventory.take.remote("bolt", 1)]) == [6, 5]
    assert ray.get(inventory.left.remote()) == {"bolt": 5, "nut": 3}


@pytest.mark.parametrize(("item", "left"), [("nut", 3), ("screw", 0)])
def test_too_few_pieces_are_an_error_with_attributes(inventory, item, left):
    with pytest.raises(OutOfStock, match=item) as caught:
        ray.get(inventory.take.remote(item, LARGE))
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert (caught.value.cause.item, caught.value.cause.left) == (item, left)
    again = pickle.loads(pickle.dumps(caught.value.cause))
    assert (again.item, again.left) == (item, left) and str(again) == f"only {left} of {item!r} left"


def test_every_order_takes_its_share_or_says_what_is_missing(inventory, runner):
    assert runner(inventory, [{"bolt": 5}, {"bolt": 5, "nut": 1}]) == [[], []]
    assert runner(inventory, [{"bolt": 1, "nut": 2}] * 2) == [["bolt"], ["bolt", "nut"]] or (
        ray.get(inventory.left.remote()) == {"bolt": 0, "nut": 0})


def test_a_function_defined_in_a_test_uses_its_names(session, tmp_path):
    path = tmp_path / "from-the-task"

    @ray.remote
    def write(text: str) -> int:
        path.write_text(text * LARGE)
        return os.getpid()

    assert ray.get(write.remote("x")) != os.getpid()
    assert path.read_text() == "xxxxxxx"


def test_what_is_patched_in_the_test_is_not_patched_in_workers(session, monkeypatch):
    monkeypatch.setattr(os, "getlogin", lambda: "patched", raising=False)

    @ray.remote
    def name() -> bool:
        return getattr(os.getlogin, "__name__", "") == "<lambda>"

    assert os.getlogin() == "patched" and not ray.get(name.remote())


def test_the_plain_class_can_be_tested_without_a_session():
    plain = Inventory.__ray_metadata__.modified_class({"bolt": 1})
    assert plain.take("bolt", 1) == 0
    with pytest.raises(OutOfStock):
        plain.take("bolt", 1)


def test_a_time_out_is_a_timeout_error(session, tmp_path):
    @ray.remote
    def waits() -> None:
        import time

        while not (tmp_path / "go").exists():
            time.sleep(0.01)

    ref = waits.remote()
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0.1)
    (tmp_path / "go").touch()
    ray.get(ref)
