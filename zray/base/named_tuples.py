"""``NamedTuple`` as of typing, for records that every process declares at its start.  Pure.

The one of the standard library compiles each annotation, and a constructor for each class, when the class is made:
0.2 ms a class, and a process declares some 160 of them before it can do anything. Here the constructor is compiled
when it is first called, and annotations stay text. To type checkers it is the one of typing.

Not here: generic ones, ``__orig_bases__``, fields that begin with an underscore refused.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    _Field = type(namedtuple("_Example", "x").x)  # the descriptor of named tuples, which the interpreter reads fast

    class _Type(type):
        """Makes a class with annotations and defaults into a named tuple."""

        def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if not any(base.__dict__.get("_makes_fields") for base in bases):
                return super().__new__(mcs, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body[field] for field in fields if field in body}
            if tuple(defaults) != fields[len(fields) - len(defaults):]:
                raise TypeError(f"{name}: a field without a default follows one with a default")
            body.update({field: _Field(place, None) for place, field in enumerate(fields)},
                        __slots__=(), _fields=fields, _field_defaults=defaults, __match_args__=fields)
            return super().__new__(mcs, name, bases, body)

    class NamedTuple(tuple, metaclass=_Type):
        """The base of a record: a tuple whose items have the names of the annotations of its class."""

        __slots__ = ()
        _makes_fields: ClassVar[bool] = True  # of this class alone: a subclass of a record has the record's fields
        _fields: ClassVar[tuple[str, ...]] = ()
        _field_defaults: ClassVar[dict[str, Any]] = {}

        def __new__(cls, /, *values: Any, **named: Any) -> Any:
            cls.__new__ = _constructor(cls)
            return cls(*values, **named)

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Any:
            return cls(*values)

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, /, **fields: Any) -> Any:
            if unknown := sorted(fields.keys() - set(self._fields)):
                raise ValueError(f"{type(self).__name__} has no field {', '.join(unknown)}")
            return tuple.__new__(type(self), map(fields.get, self._fields, self))

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(map('{}={!r}'.format, self._fields, self))})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)


def _constructor(cls: Any) -> Callable[..., Any]:
    """A function with the fields as its parameters: the fastest way to make a tuple of them, and clear errors."""
    names = "".join(f"{name}, " for name in cls._fields)
    new = eval(f"lambda _cls, {names}: _tuple_new(_cls, ({names}))", {"_tuple_new": tuple.__new__})
    new.__name__, new.__qualname__ = "__new__", f"{cls.__name__}.__new__"
    new.__defaults__ = tuple(cls._field_defaults.values()) or None
    return staticmethod(new)
