"""What type checkers see of remote functions and methods, where the plain classes would say too little.

No program makes an instance of these classes: they stand in annotations.  ``TypedMethod`` is what ``@method`` makes of
a method for a checker, so that ``handle.method.remote`` has the method's own parameters and result.  ``RemoteCall`` is
``remote`` of both: it takes a reference in place of each positional argument, as the runtime does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from typing import Unpack

    from zray.handles.keywords import MethodKeywords, NumReturns, TaskKeywords
    from zray.handles.refs import ObjectRef, ObjectRefGenerator
    from zray.handles.remote import ActorClass, RemoteFunction

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Result = TypeVar("Result")  # of a plain call
Remote = TypeVar("Remote")  # of a remote call


# The types of the first parameters, in order.
T0 = TypeVar("T0")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")
T7 = TypeVar("T7")
Rest = ParamSpec("Rest")  # the parameters after those
Function_co = TypeVar("Function_co", covariant=True)
Argument_contra = TypeVar("Argument_contra", contravariant=True)
Remote_co = TypeVar("Remote_co", covariant=True)


class _Of(Protocol[Function_co]):
    """What has a function of that type; structural, for parameters with names and defaults match those without."""

    @property
    def _function(self) -> Function_co: ...


class _Variadic(Protocol[Argument_contra]):
    """A function of ``*args`` alone.  mypy finds any function of fitting types callable with ``*args``: the other
    overloads tell one with that parameter from the rest."""

    @overload
    def __call__(self) -> object: ...
    @overload
    def __call__(self, a: Argument_contra, b: Argument_contra, c: Argument_contra, d: Argument_contra,
                 e: Argument_contra, f: Argument_contra, g: Argument_contra, h: Argument_contra,
                 i: Argument_contra, j: Argument_contra, k: Argument_contra, /) -> object: ...
    @overload
    def __call__(self, *args: Argument_contra) -> object: ...


class RemoteCall(Generic[P, Remote_co]):
    """``remote`` of a function or method with the parameters P.

    Each of the first 8 positional arguments is a value or a reference to one, and each of ``*args``.  An argument by
    name is a value: no type says "these names, with other types".
    """

    @property
    def _function(self) -> Callable[P, object]:
        raise NotImplementedError

    if TYPE_CHECKING:
        @overload
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[_Variadic[T0]], *args: T0 | ObjectRef[T0]) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, Rest], object]], a: T0 | ObjectRef[T0], /, *args: Rest.args,
                     **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, Rest], object]], a: T0 | ObjectRef[T0],
                     b: T1 | ObjectRef[T1], /, *args: Rest.args, **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, T2, Rest], object]], a: T0 | ObjectRef[T0],
                     b: T1 | ObjectRef[T1], c: T2 | ObjectRef[T2], /, *args: Rest.args,
                     **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, T2, T3, Rest], object]], a: T0 | ObjectRef[T0],
                     b: T1 | ObjectRef[T1], c: T2 | ObjectRef[T2], d: T3 | ObjectRef[T3], /, *args: Rest.args,
                     **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, T2, T3, T4, Rest], object]], a: T0 | ObjectRef[T0],
                     b: T1 | ObjectRef[T1], c: T2 | ObjectRef[T2], d: T3 | ObjectRef[T3], e: T4 | ObjectRef[T4], /,
                     *args: Rest.args, **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, T2, T3, T4, T5, Rest], object]], a: T0 | ObjectRef[T0],
                     b: T1 | ObjectRef[T1], c: T2 | ObjectRef[T2], d: T3 | ObjectRef[T3], e: T4 | ObjectRef[T4],
                     f: T5 | ObjectRef[T5], /, *args: Rest.args, **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, T2, T3, T4, T5, T6, Rest], object]],
                     a: T0 | ObjectRef[T0], b: T1 | ObjectRef[T1], c: T2 | ObjectRef[T2], d: T3 | ObjectRef[T3],
                     e: T4 | ObjectRef[T4], f: T5 | ObjectRef[T5], g: T6 | ObjectRef[T6], /, *args: Rest.args,
                     **kwargs: Rest.kwargs) -> Remote_co: ...
        @overload
        def __call__(self: _Of[Callable[Concatenate[T0, T1, T2, T3, T4, T5, T6, T7, Rest], object]],
                     a: T0 | ObjectRef[T0], b: T1 | ObjectRef[T1], c: T2 | ObjectRef[T2], d: T3 | ObjectRef[T3],
                     e: T4 | ObjectRef[T4], f: T5 | ObjectRef[T5], g: T6 | ObjectRef[T6], h: T7 | ObjectRef[T7], /,
                     *args: Rest.args, **kwargs: Rest.kwargs) -> Remote_co: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # it takes whatever they take
        """Submit the call; returns its ObjectRef, or a generator of them for a generator function."""
        raise NotImplementedError


class RemoteOfFunction:
    """``remote`` of a RemoteFunction: its result depends on that of the function."""

    if TYPE_CHECKING:
        @overload
        def __get__(self, function: RemoteFunction[P, Iterator[R]],  # type: ignore[overload-overlap]
                    owner: Any = None) -> RemoteCall[P, ObjectRefGenerator[R]]: ...
        @overload
        def __get__(self, function: RemoteFunction[P, R], owner: Any = None) -> RemoteCall[P, ObjectRef[R]]: ...
    def __get__(self, function: Any, owner: Any = None) -> Any:
        raise NotImplementedError


class TypedMethod(Generic[P, Result, Remote]):
    """A method of an actor: ``self.m(...)`` in the class is a plain call, ``handle.m.remote(...)`` a remote one."""

    def __get__(self, instance: Any, owner: Any = None) -> TypedMethod[P, Result, Remote]:
        return self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        raise NotImplementedError

    @property
    def remote(self) -> RemoteCall[P, Remote]:
        """Call the method; returns its ObjectRef, or a generator of them for a generator method."""
        raise NotImplementedError

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """The call as a node of a graph; the arguments may be other nodes.  See zray.dag."""
        raise NotImplementedError

    if TYPE_CHECKING:
        @overload
        def options(self, *, num_returns: NumReturns, **options: Unpack[MethodKeywords]
                    ) -> TypedMethod[P, Result, Any]: ...
        @overload
        def options(self, **options: Unpack[MethodKeywords]) -> TypedMethod[P, Result, Remote]: ...
    def options(self, **options: Any) -> Any:
        """The same method with other options."""
        raise NotImplementedError


class SeveralReturns(Protocol[P]):
    """A remote function with ``num_returns``: its result is a reference, a list of them, a generator or None."""

    @property
    def remote(self) -> RemoteCall[P, Any]: ...

    def bind(self, *args: Any, **kwargs: Any) -> Any: ...

    if TYPE_CHECKING:
        def options(self, *, num_returns: NumReturns = ..., **options: Unpack[TaskKeywords]) -> SeveralReturns[P]: ...


class RemoteDecorator(Protocol):
    """``@remote`` with options."""

    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R]: ...


class SeveralReturnsDecorator(Protocol):
    """``@remote`` with ``num_returns``."""

    def __call__(self, target: Callable[P, Any], /) -> SeveralReturns[P]: ...


class MethodDecorator(Protocol):
    """``@method`` with options."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
                 ) -> TypedMethod[P, Coroutine[Any, Any, R], ObjectRef[R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Iterator[R]], /  # type: ignore[overload-overlap]
                 ) -> TypedMethod[P, Iterator[R], ObjectRefGenerator[R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], AsyncIterator[R]], /  # type: ignore[overload-overlap]
                 ) -> TypedMethod[P, AsyncIterator[R], ObjectRefGenerator[R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> TypedMethod[P, R, ObjectRef[R]]: ...


class SeveralReturnsMethodDecorator(Protocol):
    """``@method`` with ``num_returns``."""

    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> TypedMethod[P, R, Any]: ...
