"""The pickler for values and definitions: cloudpickle, plus the serializers that users register.

A plain pickle of a class from ``__main__`` succeeds in the driver and fails in the worker.  So all
values that may hold a class or a function go through here.  Importing this module imports
cloudpickle (about 15 ms).
"""

from __future__ import annotations

import copyreg
import functools
import importlib.machinery
import io
import os
import sys
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from zray.base import sources
from zray.base.errors import fill_exception, rebuild_exception
from zray.base.exception_members import exception_members
from zray.values.custom_serializers import custom
from zray.values.pickled_caches import reduce_cache


def _rebuild(deserializer: Callable[[Any], Any], state: Any) -> Any:
    return deserializer(state)


def restore_code(first: int, text: str, *fields: Any) -> CodeType:
    """Code that brought its source lines."""
    code = CodeType(*fields)
    sources.restore(code.co_filename, first, text)
    return code


class Pickler(cloudpickle.Pickler):
    """cloudpickle with the serializers of :func:`zray.util.register_serializer` first."""

    lines_of_files = False  # whether code carries its lines even when they stand in a file that is here

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is CodeType:
            return self._reduce_code(obj)
        if custom:
            pair = custom.get(type(obj))
            if pair is not None:
                serializer, deserializer = pair
                return _rebuild, (deserializer, serializer(obj))
        reduced = reduce_cache(obj)
        if reduced is not NotImplemented:
            return reduced
        if isinstance(obj, type):
            pickle_by_value_if_unreachable(obj)
            if _is_inside_actor_class(obj):
                return cloudpickle.cloudpickle._dynamic_class_reduce(obj)
        elif type(obj) is FunctionType and _is_inside_actor_class(obj):
            return self._dynamic_function_reduce(obj)
        elif isinstance(obj, BaseException) and _has_default_reduce(type(obj)):
            return _reduce_exception(obj)
        return super().reducer_override(obj)

    def _reduce_code(self, code: CodeType) -> Any:
        """All fields of the code, with its real file name: cloudpickle 3.1.3 writes "<dynamic-code>".

        Fresh strings and tuples, as in cloudpickle: objects that are shared in memory would change the pickle,
        and so the key.
        """
        shared = self.__dict__
        nested = shared.setdefault("_nested", set())
        names = shared.setdefault("_file_names", {})
        name = code.co_filename
        fields = (
            code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_nlocals, code.co_stacksize,
            code.co_flags, code.co_code, code.co_consts, (*code.co_names,), (*code.co_varnames,),
            names.setdefault(name, "".join(list(name))), "".join(list(code.co_name)), "".join(list(code.co_qualname)),
            code.co_firstlineno, code.co_linetable, code.co_exceptiontable, (*code.co_freevars,), (*code.co_cellvars,))
        is_nested = id(code) in nested
        nested.update(id(constant) for constant in code.co_consts if type(constant) is CodeType)
        if not is_nested:
            first, text = sources.lines_of(code, of_files=self.lines_of_files)
            if text:
                return restore_code, (first, text, *fields)
        return CodeType, fields


def _is_inside_actor_class(obj: Any) -> bool:
    """A static method or an inner class of a decorated class.  The class goes by value, since its name in its module
    is the ActorClass: by name its parts would come from another class, that of the worker's module."""
    outer, _, name = obj.__qualname__.partition(".")
    found = getattr(sys.modules.get(obj.__module__), outer, None) if name else None
    while name and found is not None and not _is_actor_class(found):
        outer, _, name = name.partition(".")
        found = getattr(found, outer, None) if name else None
    return found is not None and _is_actor_class(found)


def _is_actor_class(found: Any) -> bool:
    return "_zray" in getattr(found, "__dict__", ())  # zray.handles.remote.ActorClass, which this layer does not import


class DefinitionPickler(Pickler):
    """Pickles functions and classes that are sent once to each worker, of which some are on other machines."""

    lines_of_files = True


def _reduce_exception(error: BaseException) -> Any:
    """Pickle an error by its attributes: most user exceptions cannot be rebuilt by calling their class again."""
    made = rebuild_exception, (type(error), error.args, None, exception_members(error) or None)
    return (*made, error.__dict__, None, None, fill_exception) if error.__dict__ else made


def _has_default_reduce(cls: type) -> bool:
    """A class of the user's without its own way to pickle an instance."""
    if cls.__module__ == "builtins" or cls in copyreg.dispatch_table:
        return False
    return all(next(base for base in cls.__mro__ if name in vars(base)).__module__ == "builtins"
               for name in ("__reduce__", "__reduce_ex__", "__setstate__"))


def cloud_dumps(value: Any, buffer_callback: Callable[[Any], Any] | None = None,
                kind: type[Pickler] = Pickler) -> bytes:
    with io.BytesIO() as file:
        kind(file, 5, buffer_callback).dump(value)
        return file.getvalue()


# ---------------------------------------------------------------- by name or by value


def pickle_by_value_if_unreachable(definition: Any) -> None:
    """Workers import modules by the driver's ``sys.path``: a module that is not found there goes by value.

    Examples are test modules under pytest's importlib mode and modules loaded by hand from a file.
    """
    name = getattr(definition, "__module__", None)
    if isinstance(name, str) and name not in _reachable_builtins and not _is_reachable(name):
        module = sys.modules.get(name)
        if module is not None:
            cloudpickle.register_pickle_by_value(module)


_reachable_builtins = frozenset(("builtins", "__main__", "__mp_main__"))


@functools.cache
def _is_reachable(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None or getattr(module, "__file__", None) is None:
        return True  # built in, or made by hand: cloudpickle knows these
    top = sys.modules.get(name.partition(".")[0])
    if top is None:
        return False  # a/b.py loaded under the name "a.b" with no package a
    return _found_on_path(top)


def _found_on_path(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return True  # a namespace package
    spec = importlib.machinery.PathFinder.find_spec(module.__name__)
    if spec is None:
        # Editable installs and the like have finders of their own, which workers have too.
        return not _loaded_by_hand(module)
    return spec.origin is None or _same_file(spec.origin, file)


def _loaded_by_hand(module: ModuleType) -> bool:
    """No finder on ``sys.meta_path`` finds it."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        # pytest's rewriting hook finds modules that pytest itself loaded; workers have no such hook.
        if find is None or type(finder).__module__.startswith("_pytest."):
            continue
        try:
            if find(module.__name__, None) is not None:
                return False
        except (ImportError, AttributeError, TypeError, ValueError):
            continue
    return True


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other
