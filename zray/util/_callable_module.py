"""A module that may replace a function of the same name.

``import package.name`` makes ``package.name`` the submodule, whatever the package bound that name
to, when the submodule is loaded after the package: by a reload, a lazy or aliasing importer, or a
program that puts ``zray`` into ``sys.modules`` as ``ray``.  Such a module is callable, so that
every order of imports works.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """Calls the function that has the module's own name."""

    @property
    def __wrapped__(self) -> Any:  # inspect.signature shows this
        return self.__dict__[self.__name__.rpartition(".")[2]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


def make_callable(name: str) -> None:
    sys.modules[name].__class__ = CallableModule
