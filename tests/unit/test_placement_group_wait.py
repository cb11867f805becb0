"""What ``PlacementGroup.wait`` makes of the end of a group, and of our node."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from zray import exceptions
from zray.base import errors

module: Any = importlib.import_module("zray.util.placement_group")  # zray.util has a function of that name


class Runtime:
    """A runtime whose groups have ended so."""

    def __init__(self, failure: Exception):
        self.failure = failure

    def wait(self, refs: list[Any], count: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return refs, []

    def get(self, refs: list[Any], timeout: None) -> None:
        raise self.failure


@pytest.fixture
def group(monkeypatch):
    found = module.PlacementGroup(module.PlacementGroupID(b"g" * 18))
    monkeypatch.setattr(module.PlacementGroup, "ready", lambda self: "ready")
    return found


def test_a_removed_group_is_not_ready(group, monkeypatch):
    monkeypatch.setattr(module, "connected", lambda: Runtime(exceptions.TaskPlacementGroupRemoved()))
    assert group.wait(1) is False


def test_a_node_that_is_lost_is_an_error_and_not_a_group_that_is_not_ready(group, monkeypatch):
    lost = errors.from_failure("raylet_died", {"node": "", "log_file": ""})
    monkeypatch.setattr(module, "connected", lambda: Runtime(lost))
    with pytest.raises(exceptions.LocalRayletDiedError):
        group.wait(1)
