"""The declaration of a message: a named tuple with a ``CODE``, its field types read from the annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from zray.base.named_tuples import NamedTuple

PROTOCOL = 1
FEATURES = ("batch", "map", "stream")

STORED = 1
FAILED = 2
CARRYING = 3
UNMADE = 4  # in the place of the value of a pending object: how to make it (zray/owner/recipes.py)

if TYPE_CHECKING:

    @dataclass_transform()
    class Message:
        """The base for type checkers: a NamedTuple cannot declare a class variable that its decorator sets."""

        CODE: ClassVar[int]
        _fields: ClassVar[tuple[str, ...]]
        _field_defaults: ClassVar[dict[str, Any]]

        def _replace(self, **fields: Any) -> Any: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...
        def __getitem__(self, index: int) -> Any: ...

else:
    Message = NamedTuple

M = TypeVar("M", bound=Message)

BY_CODE: dict[int, type[Message]] = {}
FIELD_TYPES: dict[int, tuple[frozenset[type], ...]] = {}
SIGNATURES: dict[int, tuple[type, ...]] = {}  # of messages whose fields have one type each: checked in one comparison


# Types that a field may hold, by the name of its annotation (typing.get_type_hints costs 15 ms at import).
_WIRE_TYPES: dict[str, frozenset[type]] = {
    "int": frozenset((int,)), "float": frozenset((float, int)), "bool": frozenset((bool,)), "str": frozenset((str,)),
    "bytes": frozenset((bytes,)), "list": frozenset((list,)), "dict": frozenset((dict,)),
    "None": frozenset((type(None),)),
    "Any": frozenset((int, float, bool, str, bytes, list, dict, type(None))),
}


def message(code: int) -> Callable[[type[M]], type[M]]:
    """Class decorator: give the NamedTuple its wire code and read its field types."""

    def register(cls: type[M]) -> type[M]:
        if code in BY_CODE:
            raise ValueError(f"code {code} is taken by {BY_CODE[code].__name__}")
        cls.CODE = code
        BY_CODE[code] = cls
        FIELD_TYPES[code] = tuple(_wire_types(cls.__annotations__[name]) for name in cls._fields)
        single = [next(iter(types)) for types in FIELD_TYPES[code] if len(types) == 1]
        SIGNATURES[code] = tuple(single) if len(single) == len(FIELD_TYPES[code]) else ()
        return cls

    return register


def _wire_types(annotation: str) -> frozenset[type]:
    """``"list[int] | None"`` -> {list, NoneType}"""
    none: frozenset[type] = frozenset()
    return none.union(*(_WIRE_TYPES[part.split("[")[0].strip()] for part in annotation.split("|")))
