"""Ports: what a part of the program asks of its surroundings, as one record that is complete or is not made.  Pure.

The fields of a subclass are its annotations, in order, as in a frozen dataclass. A dataclass writes and compiles its
methods at import, which costs a millisecond a class, and the start of a node waits for some twenty of them.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, TypeVar, dataclass_transform


@dataclass_transform(frozen_default=True)
class Ports:
    """See the module's docstring.

    Raises TypeError when a port is missing, unknown or given twice, AttributeError when one is to be changed.
    """

    _names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._names = (*cls._names, *cls.__dict__.get("__annotations__", ()))

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self._names
        given = dict(zip(names, values))
        twice = given.keys() & named.keys()
        given.update(named)
        unknown = [*given.keys() - set(names), *map(repr, values[len(names):])]
        if twice or unknown or len(given) != len(names):
            missing = [name for name in names if name not in given]
            raise TypeError(f"{type(self).__name__}: missing {missing}, unknown {unknown}, twice {sorted(twice)}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: a part keeps the ports it was made with")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: a part keeps the ports it was made with")


P = TypeVar("P", bound=Ports)


def changed(ports: P, **others: Any) -> P:
    """The same record with other values for some of its ports."""
    return type(ports)(**{**vars(ports), **others})
