"""The results of ``@remote``: RemoteFunction, ActorClass, ActorHandle, ActorMethod.

They check a call (options, number of arguments) and pass it to the runtime.  The runtime reads these attributes:

    RemoteFunction   name  definition() -> (key, blob)  function  is_generator  state (for the runtime's own record)
    ActorTemplate    name  definition() -> (key, blob)  cls  meta(options) -> bytes  is_async  method_names; what an
                     ActorClass holds: every other attribute of an ActorClass is the user's
    ActorHandle      _actor (bytes)  _meta (bytes)  _life_ref  _about; ActorHandle._restore makes one of the first three

A handle holds ``_life_ref``, a reference to the actor's life object: when the last one is gone, in
whatever process, the actor ends.  Handles from ``get_actor`` have none; they do not keep the actor
alive.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from zray.base.ids import ActorID
from zray.base.named_tuples import NamedTuple
from zray.base.plain_text import full_name
from zray.handles.connection import connected
from zray.handles.metadata import CLASS_ATTRIBUTES, class_attribute
from zray.handles.options import ActorOptions, CallOptions, TaskOptions
from zray.handles.signatures import OfInstance, Parameters, signature_of
from zray.values.serialization import dump_function

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from typing import Concatenate, Never, Unpack

    from zray.handles.keywords import ActorKeywords, MethodKeywords, NumReturns, TaskKeywords
    from zray.handles.refs import MapRefs, ObjectRef, ObjectRefGenerator
    from zray.handles.typed import (
        MethodDecorator,
        RemoteOfFunction,
        SeveralReturns,
        SeveralReturnsMethodDecorator,
        TypedMethod,
    )

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

METHOD_OPTIONS_ATTRIBUTE = "__zray_method_options__"


def graph_library() -> Any:
    """zray.dag, which is above this layer and is loaded with the first node of a graph."""
    return importlib.import_module("zray.dag.calls")


def is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


class _Definition:
    """A function or class and its pickle, made at the first call and shared by all ``.options()`` of it."""

    __slots__ = ("pickled", "target")

    def __init__(self, target: Any):
        self.target = target
        self.pickled: tuple[bytes, bytes] | None = None

    def get(self) -> tuple[bytes, bytes]:
        if self.pickled is None:
            self.pickled = dump_function(self.target)
        return self.pickled

    def forget(self) -> None:
        """The target has changed: pickle it again for later calls."""
        self.pickled = None


# ---------------------------------------------------------------- tasks


class RemoteFunction(Generic[P, R]):
    """A function that runs as a task: ``f.remote(...)`` returns an ObjectRef at once."""

    def __init__(self, function: Callable[P, R], options: TaskOptions, _definition: _Definition | None = None):
        if inspect.iscoroutinefunction(function):
            raise ValueError("'async def' should not be used for remote tasks. You can wrap the async function with "
                             "`asyncio.run(f())`; see also async actors.")
        self._function = function
        self._options = options
        self._definition = _definition or _Definition(function)
        self._parameters: Parameters | None = None
        self.state: Any = None
        self._read_parameters()

    @property
    def function(self) -> Callable[P, R]:
        """The function of the user."""
        return self._function

    @property
    def name(self) -> str:
        """The name of the task in logs and errors."""
        return self._options.name or getattr(self._function, "__name__", None) or repr(self._function)

    @property
    def is_generator(self) -> bool:
        """Whether it yields its results."""
        return is_generator(self._function)

    def definition(self) -> tuple[bytes, bytes]:
        """``(key, blob)``: the pickled function and its digest.  TypeError when it captures something unpicklable."""
        return self._definition.get()

    if TYPE_CHECKING:
        remote = RemoteOfFunction()
    else:
        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Submit one task; returns its ObjectRef (a list for ``num_returns`` > 1, a generator for streaming)."""
            (self._parameters or self._read_parameters()).check(args, kwargs)
            return connected().submit(self, args, kwargs, self._options)

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """``options(**options).remote(*args, **kwargs)``, for programs for older versions of Ray."""
        return (self.options(**options) if options else self).remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """The call as a node of a graph; see zray.dag.  The arguments may be other nodes."""
        (self._parameters or self._read_parameters()).check(args, kwargs)
        return graph_library().bind_function(self, args, kwargs)

    if TYPE_CHECKING:
        @overload
        def options(self, *, num_returns: NumReturns, **options: Unpack[TaskKeywords]) -> SeveralReturns[P]: ...
        @overload
        def options(self, **options: Unpack[TaskKeywords]) -> RemoteFunction[P, R]: ...
    def options(self, **options: Any) -> Any:
        """The same function with other options."""
        return RemoteFunction(self._function, self._options.merged(**options), self._definition)

    def map(self, items: Iterable[Any]) -> MapRefs[R]:
        """A task for each item, submitted as one batch: a lazy sequence of ObjectRefs."""
        return connected().map(self, items, self._options, False)

    def starmap(self, items: Iterable[Iterable[Any]]) -> MapRefs[R]:
        """Like ``map``; each item is a tuple of positional arguments."""
        return connected().map(self, items, self._options, True)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        name = f"{self._function.__module__}.{getattr(self._function, '__name__', self.name)}"
        raise TypeError("Remote functions cannot be called directly. "
                        f"Instead of running '{name}()', try '{name}.remote()'.")

    def __repr__(self) -> str:
        return f"RemoteFunction({self._function.__module__}.{self.name})"

    # State after creation, not constructor arguments: a recursive function refers to its own RemoteFunction.
    def __getstate__(self) -> tuple[Any, TaskOptions]:
        return self._function, self._options

    def __setstate__(self, state: tuple[Any, TaskOptions]) -> None:
        function, options = state
        self._function, self._options = function, options
        self._definition = _Definition(function)
        self._parameters = None  # read at the first call: the function may be half built now
        self.state = None

    def _read_parameters(self) -> Parameters:
        functools.update_wrapper(self, self._function)
        self._parameters = Parameters.of(self._function)
        return self._parameters


# ---------------------------------------------------------------- actors


class MethodMeta(NamedTuple):
    """A handle's record of a method: its parameters, its options as written, whether it yields."""

    params: tuple
    options: dict[str, Any]
    is_generator: bool


class ActorMeta(NamedTuple):
    """The record in a handle of its actor; travels as the opaque ``meta`` of the actor table."""

    class_name: str
    is_async: bool
    methods: dict[str, MethodMeta]
    max_task_retries: int
    max_pending_calls: int
    out_of_order: bool
    path: str = ""  # module.qualname of the class

    def to_bytes(self) -> bytes:
        from zray.values.pickler import cloud_dumps  # options of methods may hold exception classes

        return cloud_dumps((*self[:2], {name: tuple(m) for name, m in self.methods.items()}, *self[3:]))

    @classmethod
    def from_bytes(cls, data: bytes) -> ActorMeta:
        fields = list(pickle.loads(data))
        fields[2] = {name: MethodMeta(*m) for name, m in fields[2].items()}
        return cls(*fields)


# Methods every actor has; the worker runs them.
_BUILTIN_METHODS = {
    "__ray_ready__": MethodMeta((), {}, False),
    "__ray_terminate__": MethodMeta((), {}, False),
    "__ray_call__": MethodMeta((("fn", 0, False), ("args", 2, False), ("kwargs", 4, False)), {}, False),
}


if TYPE_CHECKING:
    @overload
    def method(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
               ) -> TypedMethod[P, Coroutine[Any, Any, R], ObjectRef[R]]: ...
    @overload
    def method(function: Callable[Concatenate[Any, P], Iterator[R]], /  # type: ignore[overload-overlap]
               ) -> TypedMethod[P, Iterator[R], ObjectRefGenerator[R]]: ...
    @overload
    def method(function: Callable[Concatenate[Any, P], AsyncIterator[R]], /  # type: ignore[overload-overlap]
               ) -> TypedMethod[P, AsyncIterator[R], ObjectRefGenerator[R]]: ...
    @overload
    def method(function: Callable[Concatenate[Any, P], R], /) -> TypedMethod[P, R, ObjectRef[R]]: ...
    @overload
    def method(*, num_returns: NumReturns, **options: Unpack[MethodKeywords]) -> SeveralReturnsMethodDecorator: ...
    @overload
    def method(**options: Unpack[MethodKeywords]) -> MethodDecorator: ...
def method(function: Any = None, /, **options: Any) -> Any:
    """Decorator for methods of actors: num_returns, concurrency_group, max_task_retries, retry_exceptions ...

    Also without options: it gives ``handle.method.remote`` the method's types.
    """
    CallOptions.build(options)
    if function is not None and (options or not callable(function)):
        raise TypeError("The @method decorator must be applied either with no arguments and no parentheses, or with "
                        f"keywords alone, for example '@ray.method(num_returns=2)'; not to {function!r}.")

    def annotate(function: Any) -> Any:
        setattr(function, METHOD_OPTIONS_ATTRIBUTE, options)
        return function

    return annotate if function is None else annotate(function)


# Special methods that Python, copy and pickle look up on a handle for themselves; the others are the actor's.
_NOT_CALLED = frozenset((
    "__init__", "__new__", "__init_subclass__", "__class_getitem__", "__subclasshook__", "__getattribute__",
    "__getattr__", "__copy__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__",
    "__getnewargs__", "__getnewargs_ex__", "__dir__"))


def _methods_of(cls: type) -> dict[str, Any]:
    """Name to function of the callable methods: the class's own and inherited ones, without object's."""
    found = {}
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        plain = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if not inspect.isroutine(plain) or getattr(object, name, None) is plain or name in _NOT_CALLED:
            continue
        found[name] = value
    return found


def _method_meta(value: Any) -> MethodMeta:
    bound = not isinstance(value, staticmethod)
    function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    options = dict(getattr(function, METHOD_OPTIONS_ATTRIBUTE, {}))
    yields = is_generator(inspect.unwrap(function))
    CallOptions.for_method(options, yields)
    return MethodMeta(Parameters.of(function, skip_self=bound).params, options, yields)


def _is_async(value: Any) -> bool:
    function = inspect.unwrap(getattr(value, "__func__", value))
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


# The classes of actors that this process has created, by the meta of their handles: for docs and signatures of methods.
_templates: weakref.WeakValueDictionary[bytes, ActorTemplate] = weakref.WeakValueDictionary()


class ActorTemplate:
    """A class with the options of its actors, as the runtime needs it to create one."""

    def __init__(self, cls: type, options: ActorOptions, pickled: _Definition | None = None):
        self.cls = cls
        self.options = options
        self.pickled = pickled or _Definition(cls)
        self._meta: tuple[ActorOptions, bytes] | None = None  # of the last actors: most are made with the same options

    # Read when first needed: while a recursive class is being unpickled it has no methods yet.
    @functools.cached_property
    def methods(self) -> dict[str, MethodMeta]:
        return {name: _method_meta(value) for name, value in _methods_of(self.cls).items()}

    @functools.cached_property
    def parameters(self) -> Parameters:
        init = self.cls.__init__  # type: ignore[misc]
        return Parameters(()) if init is object.__init__ else Parameters.of(init, skip_self=True)

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether any method is a coroutine function: its actors run an event loop."""
        return any(_is_async(value) for value in _methods_of(self.cls).values())

    def check_groups(self) -> None:
        used = {m.options["concurrency_group"] for m in self.methods.values() if m.options.get("concurrency_group")}
        unknown = used - set(self.options.concurrency_groups)
        if unknown:
            raise ValueError(f"methods of {self.name} use the concurrency groups {sorted(unknown)}, which are not "
                             f"declared; concurrency_groups has {sorted(self.options.concurrency_groups)}")

    @property
    def name(self) -> str:
        return self.cls.__name__

    @property
    def method_names(self) -> list[str]:
        return list(self.methods)

    def definition(self) -> tuple[bytes, bytes]:
        """``(key, blob)``: the pickled class and its digest."""
        return self.pickled.get()

    @staticmethod
    def handle(actor: bytes, meta: bytes, life: ObjectRef | None) -> ActorHandle:
        """A handle of an actor; see ActorHandle."""
        return ActorHandle._restore(actor, meta, life)

    def meta(self, options: ActorOptions) -> bytes:
        """The record for handles of an actor made with ``options``, as bytes."""
        if self._meta is None or self._meta[0] is not options:
            meta = ActorMeta(self.cls.__name__, self.is_async, self.methods, options.max_task_retries,
                             options.max_pending_calls, options.any_order(self.is_async), full_name(self.cls))
            self._meta = options, meta.to_bytes()
        _templates[self._meta[1]] = self
        return self._meta[1]


class ActorClassInheritanceException(TypeError):
    """A class statement names an actor class among its bases."""


class ActorClass(Generic[T]):
    """A class whose instances are actors: ``A.remote(...)`` creates one and returns its handle.

    Attributes that are not its own are those of the user's class: ``A.LIMIT``, ``A.parse("1")``, ``A.made += 1``.
    """

    _zray: ActorTemplate
    __signature__ = OfInstance(lambda self: signature_of(self._zray.cls))

    def __init__(self, cls: type[T], options: ActorOptions, _definition: _Definition | None = None):
        self._hold(ActorTemplate(cls, options, _definition))
        self._zray.check_groups()

    def _hold(self, template: ActorTemplate) -> None:
        cls = template.cls
        self.__dict__.update(_zray=template, __name__=cls.__name__, __qualname__=cls.__qualname__,
                             __module__=cls.__module__, __doc__=cls.__doc__)

    def remote(self, *args: Any, **kwargs: Any) -> ActorProxy[T]:
        """Create an actor; returns its handle at once."""
        template = self._zray
        template.parameters.check(args, kwargs)
        return connected().create_actor(template, args, kwargs, template.options)

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> ActorProxy[T]:
        """As ``RemoteFunction._remote``."""
        return (self.options(**options) if options else self).remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """An actor as a node of a graph, made anew by each execution; see zray.dag."""
        self._zray.parameters.check(args, kwargs)
        return graph_library().bind_class(self, args, kwargs)

    def options(self, **options: Unpack[ActorKeywords]) -> ActorClass[T]:
        """The same class with other options."""
        template = self._zray
        return ActorClass(template.cls, template.options.merged(**options), template.pickled)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"Actors cannot be instantiated directly. Instead of '{self.__name__}()', "
                        f"use '{self.__name__}.remote()'.")

    def __mro_entries__(self, bases: tuple) -> tuple[type]:
        actor_class = self.__name__

        class ActorBase:
            def __init_subclass__(cls) -> NoReturn:
                raise ActorClassInheritanceException(
                    f"Attempted to define subclass '{cls.__name__}' of actor class '{actor_class}'. Inheriting from "
                    "actor classes is not currently supported. You can inherit from a non-actor base class and make "
                    "the derived class an actor class (with @ray.remote).")

        return (ActorBase,)

    # ---- the user's attributes

    def __getattr__(self, name: str) -> Any:
        if name in CLASS_ATTRIBUTES:
            return class_attribute(self._zray.cls, self._zray.options.raw, name)
        if name == "_zray" or name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        cls = self._zray.cls
        if inspect.isfunction(inspect.getattr_static(cls, name, None)):
            raise AttributeError(f"{self.__name__}.{name} is a method of the actor: create an actor with "
                                 f"'a = {self.__name__}.remote()', then use 'a.{name}.remote()'.")
        try:
            return getattr(cls, name)
        except AttributeError:
            raise AttributeError(f"the actor class {self.__name__} has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it on the class, as a method that counts its instances does; later actors start with it."""
        setattr(self._zray.cls, name, value)
        self._zray.pickled.forget()

    def __delattr__(self, name: str) -> None:
        delattr(self._zray.cls, name)
        self._zray.pickled.forget()

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._zray.cls), "bind", "options", "remote", "_remote"})

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"

    def __reduce__(self):
        return _new_actor_class, (), (self._zray.cls, self._zray.options)

    def __setstate__(self, state: tuple[type, ActorOptions]) -> None:
        self._hold(ActorTemplate(*state))


def _new_actor_class() -> ActorClass:
    return ActorClass.__new__(ActorClass)


@functools.lru_cache(maxsize=1024)
def _parse_meta(data: bytes) -> ActorMeta:
    return ActorMeta.from_bytes(data)


@functools.lru_cache(maxsize=4096)
def _method_of(meta: bytes, name: str) -> tuple[Parameters, CallOptions] | None:
    methods = _parse_meta(meta).methods
    found = methods.get(name) or _BUILTIN_METHODS.get(name)
    if found is None:
        return None
    return Parameters(found.params), CallOptions.for_method(found.options, found.is_generator)


class _OwnSpecial:
    """A special method of handles themselves: ``repr(handle)`` is the handle's, ``handle.__repr__.remote()`` a call."""

    def __init__(self, name: str, function: Any):
        self.name = name
        self.function = function

    def __get__(self, handle: Any, owner: Any = None) -> Any:
        return self.function if handle is None else _BoundSpecial(handle, self.name, self.function)


class _BoundSpecial:
    """A call is the handle's; the other attributes are those of the actor's method of that name."""

    __slots__ = ("_function", "_handle", "_name")

    def __init__(self, handle: ActorHandle, name: str, function: Any):
        self._handle, self._name, self._function = handle, name, function

    def __call__(self, *args: Any) -> Any:
        return self._function(self._handle, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(ActorHandle.__getattr__(self._handle, self._name), name)


class ActorHandle(Generic[T]):
    """An actor that may be on another node: ``handle.method.remote(...)`` calls it.

    Every public name is the user's: methods of actors are called ``restore``, ``meta`` and ``about`` too.
    """

    __slots__ = ("__weakref__", "_actor", "_life_ref", "_meta")

    def __init__(self, actor: bytes, meta: bytes, life_ref: ObjectRef | None = None):
        self._actor = actor
        self._meta = meta
        self._life_ref = life_ref

    @staticmethod
    def _restore(actor: bytes, meta: bytes, life_ref: ObjectRef | None = None) -> ActorHandle:
        """A handle from its parts, which come from a pickle or from the actor table."""
        return ActorHandle(actor, meta, life_ref)

    @property
    def _about(self) -> ActorMeta:
        return _parse_meta(self._meta)

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._actor)

    @property
    def _ray_actor_id(self) -> ActorID:
        return ActorID(self._actor)

    def __getattr__(self, name: str) -> ActorMethod:
        found = _method_of(self._meta, name)
        if found is None:
            raise AttributeError(self._no_such_method(name))
        return ActorMethod(self, name, found[0], found[1])

    def _no_such_method(self, name: str) -> str:
        about = self._about
        from difflib import get_close_matches  # for errors alone

        close = get_close_matches(name, about.methods, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"'{about.class_name}' actor has no method {name!r}{hint}"

    def __dir__(self) -> list[str]:
        return [*self._about.methods, "__init__", *_BUILTIN_METHODS]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor == self._actor

    def __hash__(self) -> int:
        return hash(self._actor)

    def __repr__(self) -> str:
        return f"Actor({self._about.class_name}, {self._actor.hex()})"

    def __reduce__(self):
        return ActorHandle._restore, (self._actor, self._meta, self._life_ref)


if TYPE_CHECKING:
    class CreatedHandle(ActorHandle[T]):
        """The handle that ``remote`` of a class returns: its methods are those of the class."""

        def __getattr__(self, name: str) -> Never: ...

    # As in Ray: a checker looks an attribute up in all members of the union, and finds it in the class.
    ActorProxy = CreatedHandle[T] | type[T]
else:
    ActorProxy = ActorHandle


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__repr__", "__str__",
              "__format__"):
    setattr(ActorHandle, _name, _OwnSpecial(_name, getattr(ActorHandle, _name)))


def _user_method(method: ActorMethod) -> Any:
    """The user's function, where this process has the class; else None."""
    template = _templates.get(method._handle._meta)
    value = inspect.getattr_static(template.cls, method._name, None) if template is not None else None
    return getattr(value, "__func__", value)


def _method_doc(method: ActorMethod) -> str | None:
    function = _user_method(method)
    return None if function is None else function.__doc__  # None itself has a docstring from Python 3.13 on


def _method_signature(method: ActorMethod) -> inspect.Signature:
    function = _user_method(method)
    if function is None:
        return method._parameters.signature()
    template = _templates[method._handle._meta]
    bound = not isinstance(inspect.getattr_static(template.cls, method._name), staticmethod)
    return signature_of(function, skip_self=bound)


class ActorMethod:
    # The docstring of an instance is that of the user's method.
    __doc__ = OfInstance(_method_doc,  # type: ignore[assignment]
                         "A method of an actor; ``remote`` calls it.  Keeps its handle, hence the actor, alive.")
    __signature__ = OfInstance(_method_signature)
    __slots__ = ("_handle", "_name", "_options", "_parameters")

    def __init__(self, handle: ActorHandle, name: str, parameters: Parameters, options: CallOptions):
        self._handle = handle
        self._name = name
        self._parameters = parameters
        self._options = options

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns an ObjectRef (a list of them, or a generator, as ``num_returns`` says)."""
        self._parameters.check(args, kwargs)
        return connected().call(self._handle, self._name, args, kwargs, self._options)

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """As ``RemoteFunction._remote``."""
        return (self.options(**options) if options else self).remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """The call as a node of a graph; a tuple of nodes for several results.  See zray.dag."""
        self._parameters.check(args, kwargs)
        return graph_library().bind_method(self, args, kwargs)

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options."""
        return ActorMethod(self._handle, self._name, self._parameters, self._options.merged(**options))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Actor methods cannot be called directly. Instead of running "
                        f"'object.{self._name}()', try 'object.{self._name}.remote()'.")

    def __repr__(self) -> str:
        return f"ActorMethod({self._handle._about.class_name}.{self._name})"


# ---------------------------------------------------------------- @remote


def make_remote(target: Any, options: dict[str, Any]) -> Any:
    """RemoteFunction or ActorClass for the decorated function or class."""
    if isinstance(target, type):
        return ActorClass(target, ActorOptions.build(options))
    if isinstance(target, (RemoteFunction, ActorClass)):
        raise TypeError(f"{target!r} is remote already; use .options() for other options.")
    if not callable(target) or not (inspect.isroutine(target) or isinstance(target, functools.partial)):
        raise TypeError("The @remote decorator must be applied to either a function or a class, "
                        f"not to a {type(target).__name__}.")
    return RemoteFunction(target, TaskOptions.for_function(options, is_generator(target)))
