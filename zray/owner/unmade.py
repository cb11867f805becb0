"""The form of a recipe: how to make a pending object, in the place of its value.

    [UNMADE, recipe, references, token]

``recipe`` is a list, or the reason why the object cannot be made without its owner.  ``references`` are the inputs of
the task, arguments first.  The receiver holds them as long as it has the recipe, so they outlive the owner as well:
ready ones come with their values, pending ones with their own recipes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from zray.wire.messages import UNMADE

# Memory of a recipe without its arguments, and its size in a message, about.
UNMADE_BYTES = 500
OWNER_ALONE = "only its owner knew how to make it, because the arguments are too large to be kept elsewhere"


class UnmadeTask(NamedTuple):
    """A recipe, which is a list on the wire.

    ``retries`` are left, -1 for any number.  ``key``: demand, env, strategy and name of the scheduling key.  The first
    ``arguments`` references are arguments.  ``retry_errors``: every exception is retried.  ``owners`` may have run
    attempts: the sender, and the owners before it.
    """

    task: bytes
    attempt: int
    retries: int
    returns: int
    function: bytes
    name: str
    args: Any
    extra: dict[str, Any] | None
    key: list[Any]
    arguments: int
    retry_errors: bool
    owners: list[bytes]


def recipe_bytes(recipe: Any) -> int:
    """The size of a recipe, about."""
    if type(recipe) is not list:
        return len(recipe)
    args = UnmadeTask(*recipe).args
    return UNMADE_BYTES + (len(args) if type(args) is bytes else 0)


def unmade(recipe: list[Any] | str, references: list[list[Any]], token: int) -> list[Any]:
    """The form of a recipe in a message."""
    return [UNMADE, recipe, references, token]
