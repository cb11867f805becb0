"""What type checkers see of remote functions and methods, where the plain classes would say too little.

No program makes an instance of these classes: they stand in annotations.  ``TypedMethod`` is what ``@method`` makes of
a method for a checker, so that ``handle.method.remote`` has the method's own parameters and result.
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


class TypedMethod(Generic[P, Result, Remote]):
    """A method of an actor: ``self.m(...)`` in the class is a plain call, ``handle.m.remote(...)`` a remote one."""

    def __get__(self, instance: Any, owner: Any = None) -> TypedMethod[P, Result, Remote]:
        return self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        raise NotImplementedError

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Remote:
        """Call the method; returns its ObjectRef, or a generator of them for a generator method."""
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

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...

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
