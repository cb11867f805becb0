"""A record of ports: complete, or not made; never changed."""

from __future__ import annotations

import pickle

import pytest

from zray.base.ports import Ports, changed


class Doors(Ports):
    """Ports of a house."""

    front: int
    back: int


class MoreDoors(Doors):
    """Ports of a larger house."""

    side: int


def test_ports_are_given_in_order_or_by_name():
    for doors in (MoreDoors(1, 2, 3), MoreDoors(1, side=3, back=2)):
        assert (doors.front, doors.back, doors.side) == (1, 2, 3)
    assert vars(Doors(1, 2)) == {"front": 1, "back": 2}


@pytest.mark.parametrize(("values", "named", "words"), [
    ((1,), {}, r"Doors: missing \['back'\]"),
    ((1, 2, 3), {}, r"unknown \['3'\]"),
    ((1, 2), {"side": 3}, r"unknown \['side'\]"),
    ((1, 2), {"back": 3}, r"twice \['back'\]"),
    ((), {"bak": 3}, r"missing \['front', 'back'\], unknown \['bak'\]"),
])
def test_a_record_that_is_not_complete_is_not_made(values, named, words):
    with pytest.raises(TypeError, match=words):
        Doors(*values, **named)


def test_ports_are_never_changed():
    doors = Doors(1, 2)
    assert vars(changed(doors, back=3)) == {"front": 1, "back": 3}
    with pytest.raises(TypeError, match="unknown"):
        changed(doors, side=3)
    with pytest.raises(AttributeError, match=r"Doors.front cannot be changed"):
        doors.front = 2
    with pytest.raises(AttributeError, match=r"Doors.front cannot be changed"):
        del doors.front
    assert vars(pickle.loads(pickle.dumps(doors))) == vars(doors)
